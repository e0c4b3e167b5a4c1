"""Free-running curves: do the backends drift apart faster than rounding makes each drift from itself?

    python -m parity_tests.curves --batch_size 16

Training amplifies rounding until two runs of one recipe differ visibly, whatever their backends. So each
backend also runs against itself with its initial weights moved by one unit in the last place, and the backends
may differ from each other, or after a hand-over half-way, by no more than twice as much. A run that is on the
disk is not repeated.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from nanogpt.backend import Backend, TrainingState, load_backend
from nanogpt.config import Config, ModelConfig, TrainingConfig, learning_rate_at
from nanogpt.data import Splits, load_corpus
from nanogpt.language_model import mean_loss
from nanogpt.presets import PRESETS
from nanogpt.randomness import dropout_keys
from nanogpt.tokenizer import CharTokenizer
from parity_tests.twins import relative_error

# Backends before and after the hand-over, and whether the initial weights are moved.
RUNS = {
    "jax": ("jax", "jax", False),
    "torch": ("torch", "torch", False),
    "jax, moved": ("jax", "jax", True),
    "torch, moved": ("torch", "torch", True),
    "jax then torch": ("jax", "torch", False),
    "torch then jax": ("torch", "jax", False),
}
CONTROLS = [("jax", "jax, moved"), ("torch", "torch, moved")]
PAIRS = [("jax", "torch")] + [(a, b) for a in ("jax", "torch") for b in ("jax then torch", "torch then jax")]
STATES = 200  # from which single steps are compared
WINDOW = 50  # steps over which a gap is averaged


@dataclass(frozen=True)
class Curves:
    """Train the reference recipe six times and compare the losses."""

    steps: int = 1_000
    """Optimizer steps of each run, at the schedule of the whole recipe."""
    batch_size: int = 64
    """The recipe's own; smaller ones are faster."""
    data: str = "shakespeare"
    device: str = "cpu"
    out_dir: Path = Path("out/curves")
    """Where the runs, `curves.svg` and `curves.json` go."""


class Recipe:
    """The default recipe on its corpus, a step at a time."""

    def __init__(self, curves: Curves) -> None:
        self.device, self.half, self.steps = curves.device, curves.steps // 2, curves.steps
        corpus = load_corpus(curves.data)
        tokenizer = CharTokenizer.from_text(corpus.text)
        default: Config = PRESETS["shakespeare"]
        self.model: ModelConfig = replace(default.model, vocab_size=tokenizer.vocab_size)
        self.training: TrainingConfig = replace(default.training, batch_size=curves.batch_size)
        self.splits = Splits.of(corpus, tokenizer, self.model.block_size)

    def backend(self, name: str, state: TrainingState) -> Backend:
        return load_backend(name)(self.model, self.training, state, device=self.device)

    def initial(self, moved: bool) -> TrainingState:
        state = TrainingState.initial(self.model, self.training.seed)
        if not moved:
            return state
        up = np.float32(np.inf)
        return replace(state, weights={name: np.nextafter(w, up) for name, w in state.weights.items()})

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a backend's `train` takes for this one step."""
        B, seed = self.training.batch_size, self.training.seed
        rate_K = np.array([learning_rate_at(step, self.training)], np.float32)
        return self.splits.batch(seed, step, B)[None], dropout_keys(seed, step, np.arange(B))[None], rate_K

    def run(self, name: str) -> Iterator[float]:
        """The batch loss of each step, and at last the validation loss."""
        first, second, moved = RUNS[name]
        backend = self.backend(first, self.initial(moved))
        for step in range(self.steps):
            if step == self.half and second != first:
                backend = self.backend(second, backend.state())
            yield float(backend.train(*self.batch(step))()[0])
        yield mean_loss(backend, self.splits.validation_tokens(), self.model.block_size)

    def single_steps(self) -> dict[str, list[float]]:
        """Largest error of one torch step against one jax step, at states spread along a jax run."""
        jax, torch = (self.backend(name, self.initial(False)) for name in ("jax", "torch"))
        errors: dict[str, list[float]] = {"loss": [], "gradients": [], "moments": [], "weights": []}
        for step in range(self.steps):
            tokens_KBT1, keys_KB2, rate_K = batch = self.batch(step)
            if step % max(1, self.steps // STATES):
                jax.train(*batch)()
                continue
            torch.load(jax.state())
            loss, gradients = torch.gradients(tokens_KBT1[0], keys_KB2[0])
            expected_loss, expected = jax.gradients(tokens_KBT1[0], keys_KB2[0])
            errors["loss"].append(relative_error(loss, expected_loss))
            errors["gradients"].append(largest(gradients, expected))
            for backend in (jax, torch):
                backend.train(*batch)()
            ours, theirs = torch.state(), jax.state()
            moments = [
                largest(ours.first_moment, theirs.first_moment),
                largest(ours.second_moment, theirs.second_moment),
            ]
            errors["moments"].append(max(moments))
            errors["weights"].append(largest(ours.weights, theirs.weights))
        return errors


def largest(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    return max(relative_error(actual[name], expected[name]) for name in expected)


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; made and written first if there is none."""
    if not file.exists():
        part = file.with_suffix(".part")
        part.write_text(json.dumps(make()))
        part.replace(file)
    return json.loads(file.read_text())


def gaps(losses: dict[str, list[float]], pair: tuple[str, str]) -> np.ndarray:
    """Root mean square of the difference of two runs' losses, over each WINDOW of steps."""
    difference = np.subtract(losses[pair[0]][:-1], losses[pair[1]][:-1])
    return np.sqrt((difference.reshape(-1, WINDOW) ** 2).mean(-1))


def main() -> None:
    curves = tyro.cli(Curves, use_underscores=True)
    curves.out_dir.mkdir(parents=True, exist_ok=True)
    recipe, console = Recipe(curves), Console(stderr=True)
    losses = {}
    for name in RUNS:
        file = curves.out_dir / f"{name.replace(', ', ' ').replace(' ', '_')}.json"
        losses[name] = kept(file, lambda name=name: list(recipe.run(name)))
        console.print(f"{name}: validation {losses[name][-1]:.4f} after {curves.steps:,} steps")
    errors = kept(curves.out_dir / "single_steps.json", recipe.single_steps)


if __name__ == "__main__":
    main()
