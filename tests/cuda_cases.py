"""Programs of test_cuda_programs.py, right and wrong: `python -m tests.cuda_cases FOLDER [tiny|NAME ...]`."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cuda.cards import CARDS
from benchmarks.cuda.programs import Case, DescribedBackend, DescribedJax, generation, tokens, train, write
from benchmarks.gpu_items import GPT2
from nanogpt.config import ModelConfig
from nanogpt.mesh import Mesh
from nanogpt_jax.backend import Backend

SHALLOW = ModelConfig(n_layer=2)
ATTENTION_DROPOUT = replace(SHALLOW, attention_dropout=0.1)


def evaluate(backend: Backend, B: int) -> None:
    backend.losses(tokens(backend, B, 1))


CASES = [
    *(Case((f"step, {dtype}",), train, dtype, model=SHALLOW) for dtype in ("float32", "tf32", "bfloat16")),
    Case(("step, attention dropout",), train, model=ATTENTION_DROPOUT),
    Case(("whole step",), train),
    Case(("evaluation",), evaluate, model=SHALLOW),
    replace(generation(2), model=SHALLOW),
]
# Its whole batch needs 32 GB.
TOO_LARGE = [Case(("GPT-2 at batch 64",), train, "bfloat16", 64, GPT2, "adamw")]
# GPT-2 in small, with more rows in its vocabulary than an embedding's gradient is a matmul for.
WIDE = replace(GPT2, n_layer=2, n_embd=256, n_head=4, block_size=128, vocab_size=2056)
ON_MESHES = [
    Case(("fsdp=8",), train, model=WIDE, optimizer="adamw", mesh=Mesh(1, 8)),
    Case(("fsdp=8, recomputed",), train, model=WIDE, optimizer="adamw", mesh=Mesh(1, 8), remat=True),
    Case(("data=2,fsdp=8",), train, model=WIDE, optimizer="adamw", mesh=Mesh(2, 8)),
    Case(("data=8",), train, model=WIDE, optimizer="adamw", mesh=Mesh(8, 1)),
    Case(("fsdp=8, Muon",), train, model=WIDE, mesh=Mesh(1, 8)),
]
# So small that the machine code of all its kernels can be read too.
SMALL = replace(SHALLOW, block_size=32, n_layer=1, n_embd=64)
TINY = [Case((f"tiny step, {dtype}",), train, dtype, 4, SMALL) for dtype in ("float32", "tf32", "bfloat16")]


class Float64(DescribedBackend):
    """Adds a float64 constant to the loss."""

    def _token_losses(self, *arguments: Any) -> jax.Array:
        with jax.enable_x64(True):
            losses = super()._token_losses(*arguments)
            return (losses + jnp.asarray(1e-3, jnp.float64) * losses.sum()).astype(jnp.float32)


class KeepingJax(DescribedJax):
    def jit(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return super().jit(function, **options | {"donate_argnums": ()})


class NoDonation(DescribedBackend):
    """Keeps what a training step is given."""

    compiler = KeepingJax


if __name__ == "__main__":
    folder, *which = Path(sys.argv[1]), *sys.argv[2:]
    if which:
        cases = TINY if which == ["tiny"] else [case for case in ON_MESHES if case.names[0] in which]
        write(folder, CARDS["h100"], cases)
        sys.exit()
    write(folder, CARDS["h100"], CASES)
    write(folder, CARDS["rtx4090"], TOO_LARGE)
    for kind in (Float64, NoDonation):
        wrong = Case((kind.__name__,), train, model=replace(ATTENTION_DROPOUT, n_layer=1), optimizer="adamw")
        write(folder, CARDS["h100"], [wrong], kind)
