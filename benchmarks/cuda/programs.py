"""Compile the programs that the JAX twin runs for a card that is described and not there.

    python -m benchmarks.cuda.programs h100 FOLDER

It needs the wheels of environment.py. The backend is the twin's own and so are its calls; only `jax.jit` is
exchanged, by one that compiles for the card and gives zeros.
"""

import json
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from benchmarks.cuda.cards import CARDS, CARDS_OF_A_HOST, Card
from benchmarks.gpu_items import GPT2
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.mesh import ONE_DEVICE, Mesh
from nanogpt.presets import PRESETS
from nanogpt.sampling import SamplingPolicy
from nanogpt.state import TrainingState
from nanogpt_jax.backend import Backend
from nanogpt_jax.kernels import KeptBlock, SummedEmbed, attend_fused
from nanogpt_jax.model import Kernels, attend


class DescribedJax:
    """The part of jax that a backend asks for, on a described card: a call compiles, and runs nothing."""

    def __init__(self, card: Card, mesh: Mesh) -> None:
        jax.devices()  # loads the plugin
        hosts = -(-mesh.size // CARDS_OF_A_HOST)
        topology = {"target_config": card.description(), "topology": f"1x{hosts}x{mesh.size // hosts}"}
        self._devices = topologies.get_topology_desc(platform="cuda", **topology).devices
        self.programs: list[dict[str, Any]] = []
        """Everything that was compiled, in the order of the first calls."""

    def devices(self, platform: str) -> Any:
        return self._devices

    def device_put(self, tree: Any, shardings: Any, **options: Any) -> Any:
        """Describe the arrays of a tree, of which a sharding may be for all."""

        def describe(array: Any, sharding: Any) -> Any:
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

        one_for_all = isinstance(shardings, jax.sharding.Sharding)
        return jax.tree.map(
            describe, tree, jax.tree.map(lambda _: shardings, tree) if one_for_all else shardings
        )

    def jit(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        outputs: dict[str, Any] = {}

        def call(*arguments: Any) -> Any:
            described = jax.tree.map(self._describe, arguments)
            if str(described) not in outputs:
                begun = time.perf_counter()
                traced = jax.jit(function, **options).trace(*described)
                compiled = traced.lower(lowering_platforms=("cuda",)).compile()
                memory = compiled.memory_analysis()
                self.programs.append(
                    {
                        "seconds": time.perf_counter() - begun,
                        "temporaries": memory.temp_size_in_bytes,
                        "aliased": memory.alias_size_in_bytes,
                        "text": compiled.as_text(),
                    }
                )
                outputs[str(described)] = traced.out_info
            return jax.tree.map(zeros, outputs[str(described)])

        return call

    def _describe(self, value: Any) -> Any:
        is_numpy = isinstance(value, np.ndarray | np.generic)
        return jax.ShapeDtypeStruct(value.shape, value.dtype) if is_numpy else value


class DescribedBackend(Backend):
    """The backend of a case on a described card."""

    compiler = DescribedJax

    def __init__(self, card: Card, case: "Case") -> None:
        self._jax, self._card = self.compiler(card, case.mesh), card
        training = TrainingConfig(batch_size=case.batch_size, optimizer=case.optimizer)
        # The choice of a backend whose self-test finds cuDNN's attention right.
        fused = partial(attend_fused, otherwise=attend) if case.dtype == "bfloat16" else attend
        kernels = Kernels(attend=fused, embedding=SummedEmbed, block=KeptBlock)
        state = TrainingState.initial(case.model, 0)
        options: dict[str, Any] = {
            "mesh": case.mesh,
            "dtype": case.dtype,
            "remat": case.remat,
            "kernels": kernels,
        }
        super().__init__(case.model, training, state, device="cuda", **options)

    @staticmethod
    def devices() -> list[str]:
        return ["cuda"]

    def memory(self, device: str) -> int:  # type: ignore[override]
        return self._card.memory

    @property
    def programs(self) -> list[dict[str, Any]]:
        return self._jax.programs


def zeros(described: Any) -> np.ndarray:
    return np.broadcast_to(np.zeros((), described.dtype), described.shape)  # takes no memory


def train(backend: Backend, B: int) -> None:
    keys_1B2, rate_1 = np.zeros((1, B, 2), np.uint32), np.zeros(1, np.float32)
    backend.train(np.zeros((1, B, backend.config.block_size + 1), np.int32), keys_1B2, rate_1)


def gradients(backend: Backend, B: int) -> None:
    backend.gradients(tokens(backend, B, 1), np.zeros((B, 2), np.uint32))


def generate(backend: Backend, B: int) -> None:
    """One token inside the window, then the others past it."""
    list(backend.generate(tokens(backend, B), np.zeros((B, 3), np.float32), SamplingPolicy()))


def tokens(backend: Backend, B: int, more: int = 0) -> np.ndarray:
    return np.zeros((B, backend.config.block_size + more), np.int32)


@dataclass(frozen=True)
class Case:
    """One use of a backend, and the names of the programs that it runs, in the order of their first calls."""

    names: tuple[str, ...]
    use: Callable[[Backend, int], object]
    dtype: str = "bfloat16"
    batch_size: int = 64
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: Any = "muon"
    remat: bool = False
    mesh: Mesh = ONE_DEVICE


def generation(B: int) -> Case:
    names = (f"prefill, batch {B}", f"token in the window, batch {B}", f"token past the window, batch {B}")
    return Case(names, generate, batch_size=B)


CASES = [
    *(Case((f"training step, {dtype}",), train, dtype, 32) for dtype in ("float32", "tf32", "bfloat16")),
    Case(("training step, reference",), train, model=PRESETS["reference"].model, optimizer="adamw"),
    *(
        Case((f"training step, GPT-2 124M, batch {B}",), train, "bfloat16", B, GPT2, "adamw")
        for B in (16, 32)
    ),
    Case(("training step, GPT-2 124M, batch 32, --remat",), train, "bfloat16", 32, GPT2, "adamw", True),
    Case(("gradients",), gradients),
    Case(("evaluation",), lambda backend, B: backend.losses(tokens(backend, B, 1))),
    Case(("logits",), lambda backend, B: backend.logits(tokens(backend, B))),
    Case(("attention",), lambda backend, B: backend.attention(tokens(backend, B)), batch_size=1),
    Case(("head outputs",), lambda backend, B: backend.head_outputs(tokens(backend, B)), batch_size=1),
    generation(1),
    generation(64),
]


GPT2_XL = replace(PRESETS["gpt2-xl"].model, vocab_size=GPT2.vocab_size)
# Compiled only if they are named, for the large ones take many minutes.
ON_MESHES = [
    *(
        Case((f"GPT-2 124M, {mesh}, batch 256",), train, "bfloat16", 256, GPT2, "adamw", False, mesh)
        for mesh in (Mesh(8, 1), Mesh(1, 8))
    ),
    *(
        Case((f"GPT-2 XL, {mesh}, batch {B}, --remat",), train, "bfloat16", B, GPT2_XL, "adamw", True, mesh)
        for mesh, B in ((Mesh(1, 8), 64), (Mesh(2, 8), 128))
    ),
]


def chosen(names: Collection[str]) -> list[Case]:
    """The cases of the named programs; without names all those of one card."""
    return [case for case in [*CASES, *ON_MESHES] if set(names) & set(case.names)] if names else CASES


def write(
    folder: Path, card: Card, cases: list[Case], kind: type[DescribedBackend] = DescribedBackend
) -> None:
    """Compile the cases and write NAME.hlo and NAME.json for each of their programs."""
    for case in cases:
        backend = kind(card, case)
        case.use(backend, case.batch_size)
        for name, program in zip(case.names, backend.programs, strict=True):
            (folder / f"{name}.hlo").write_text(program.pop("text"), encoding="utf-8")
            (folder / f"{name}.json").write_text(json.dumps(program), encoding="utf-8")
            print(f"{name}: compiled in {program['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    card, folder, *wanted = sys.argv[1:]
    write(Path(folder), CARDS[card], chosen(wanted))
