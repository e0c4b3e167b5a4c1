"""A model computes the same in several processes as in one: this program runs in each of them.

    torchrun --nproc_per_node 2 -m parity_tests.several FOLDER CASE ...

writes CASE.npz, and from each process of torch CASE masks NUMBER.npz.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nanogpt_torch.dropout
from nanogpt.backend import Backend
from nanogpt.choice import load_backend
from nanogpt.config import Config, ModelConfig, RunConfig, TrainingConfig
from nanogpt.mesh import Mesh, parsed_mesh
from nanogpt.processes import ALONE, Processes, follow, launched, leading
from nanogpt.randomness import dropout_keys, normals
from nanogpt.sampling import SamplingPolicy, sampling_uniforms
from nanogpt.session import build_backend
from nanogpt.state import TrainingState
from nanogpt.training.batches import step_inputs
from parity_tests.twins import generic_state, random_tokens

B, STEPS = 12, 100
# Smooth: over many steps some ReLU unit comes to its kink, where rounding decides its derivative.
GPT2 = ModelConfig(31, 9, 3, 2, 24, 0.1, 0.2, bias=True, activation="gelu", tie_weights=True)
UNTIED = ModelConfig(31, 16, 2, 2, 32, 0.1, activation="gelu")
CASES: dict[str, tuple[ModelConfig, str, dict[str, Any]]] = {
    "data=2": (GPT2, "muon", {}),
    "fsdp=2": (GPT2, "muon", {}),
    "fsdp=2, adamw, remat, micro-batches": (UNTIED, "adamw", {"remat": True, "micro_batch_size": 2}),
    "data=2, bfloat16, micro-batches": (UNTIED, "muon", {"dtype": "bfloat16", "micro_batch_size": 2}),
    "fsdp=2, bfloat16": (GPT2, "muon", {"dtype": "bfloat16"}),
    "fsdp=2, compile": (UNTIED, "muon", {"compile": True}),
    "fsdp=2, compile, remat": (UNTIED, "muon", {"compile": True, "remat": True}),
    "data=2,fsdp=2": (GPT2, "muon", {}),
    "fsdp=4, micro-batches": (GPT2, "muon", {"micro_batch_size": 1}),
    "data=4": (UNTIED, "muon", {}),
    "fsdp=3": (GPT2, "muon", {}),
}


SITES = {GPT2: 3 * 3, UNTIED: 2 * 2}
"""Masks of a forward pass."""


class Case(NamedTuple):
    """The setting of a case, which every process must know."""

    config: Config
    mesh: Mesh

    @classmethod
    def named(cls, name: str) -> "Case":
        model, optimizer, options = CASES[name]
        training = TrainingConfig(STEPS, optimizer, B, learning_rate=1e-3, warmup_iters=5)
        run = RunConfig(device="cpu", **options)
        return cls(Config(model, training, run), parsed_mesh(name.split(", ")[0]))

    def build(self, backend: type[Backend], state: TrainingState, processes: Processes = ALONE) -> Backend:
        return build_backend(backend, self.config, self.mesh, state, processes)


def trained(backend: Backend, config: Config, steps: range) -> np.ndarray:
    """Losses of steps, on four batches again and again."""

    def draw(step: int) -> np.ndarray:
        return random_tokens(config.model, B, config.model.block_size + 1, step=step % 4)

    return backend.train(*step_inputs(draw, steps, config.training))()


def measured(backend: Backend, run: Config) -> dict[str, np.ndarray]:
    """The results that a run asks a backend for, at its first state, after a step and along the run."""
    config = run.model
    tokens_BT1 = random_tokens(config, B, config.block_size + 1)
    loss, gradients = backend.gradients(tokens_BT1, dropout_keys(1, 2, np.arange(B)))
    result = {"loss": np.array(loss)} | {f"gradients/{name}": g for name, g in gradients.items()}
    result["losses"] = backend.losses(tokens_BT1[:7])
    result["attention"] = backend.attention(tokens_BT1[:2, :-1])
    first = trained(backend, run, range(1))
    state = backend.state()
    for part in ("weights", "first_moment", "second_moment"):
        result |= {f"{part}/{name}": array for name, array in getattr(state, part).items()}
    result["logits"] = backend.logits(tokens_BT1[:2, :-1])
    texts = backend.generate(tokens_BT1[:2, :3], sampling_uniforms(1, [0, 1], 20), SamplingPolicy())
    result["text"] = np.concatenate([*texts], axis=1)
    calls = (range(1, 50), range(50, STEPS))
    result["losses of the run"] = np.concatenate([first, *(trained(backend, run, steps) for steps in calls)])
    return result


def state_of(case: str) -> TrainingState:
    """A state with a past: without one, AdamW would move a weight by the sign of rounding noise."""
    state = generic_state(CASES[case][0])
    for name, weight in state.weights.items():
        noise = normals(6, name, 0, weight.size).reshape(weight.shape)
        state.first_moment[name] += np.float32(0.01) * noise
        state.second_moment[name] += np.float32(1e-3)
    return state


class Masks(list[np.ndarray]):
    """The dropout masks that this process makes, in their order."""

    def __init__(self) -> None:
        self.keep_mask = nanogpt_torch.dropout.keep_mask

    def __call__(self, *arguments: Any) -> Any:
        mask = self.keep_mask(*arguments)
        self.append(mask.numpy().copy())
        return mask


def main(folder: Path, names: list[str]) -> None:
    backend_class = load_backend("auto", launched())
    with backend_class.join() as processes:
        for name in names:
            case, masks = Case.named(name), Masks()
            if not case.config.run.compile:
                nanogpt_torch.dropout.keep_mask = masks
            if processes.number == 0:
                with leading(processes):
                    backend = case.build(backend_class, state_of(name), processes)
                    np.savez(folder / name, **measured(backend, case.config))
            else:
                placeholder = TrainingState.placeholder(case.config.model, 0)
                follow(case.build(backend_class, placeholder, processes))
            if masks:
                np.savez(folder / f"{name} masks {processes.number}", *masks[: SITES[case.config.model]])
            nanogpt_torch.dropout.keep_mask = masks.keep_mask


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
