"""Free-running curves: do the backends drift apart faster than rounding makes each drift from itself?

    python -m parity_tests.curves

Training amplifies rounding until two runs of one recipe differ visibly, whatever their backends. So each
backend also runs against itself with its initial weights moved by one unit in the last place, and the two
backends, or a run that is handed over half-way, may differ by no more than twice as much. A run that is on
the disk is not repeated.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from nanogpt.backend import MAX_STEPS_PER_CALL, Backend
from nanogpt.choice import load_backend
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.language_model import mean_loss
from nanogpt.presets import PRESETS
from nanogpt.state import TrainingState
from nanogpt.text.corpus import Splits, load_corpus
from nanogpt.text.tokenizer import CharTokenizer
from nanogpt.training.batches import step_inputs
from parity_tests.devices import Device, device_of

# The backends of each run's two halves, and whether its initial weights are moved.
RUNS = {
    "jax": ("jax", "jax", False),
    "torch": ("torch", "torch", False),
    "jax, moved": ("jax", "jax", True),
    "torch, moved": ("torch", "torch", True),
    "jax then torch": ("jax", "torch", False),
    "torch then jax": ("torch", "jax", False),
}
CONTROLS = [("jax", "jax, moved"), ("torch", "torch, moved")]
PAIRS = [
    ("jax", "torch"),
    *[(alone, handed) for handed in ("jax then torch", "torch then jax") for alone in ("jax", "torch")],
]
WINDOW = 50  # steps over which the drawn gaps are averaged

Losses = dict[str, list[float]]


@dataclass(frozen=True)
class Curves:
    """Train the recipe of the preset reference six times, and compare."""

    steps: int = 1_000
    """Steps of each run, at the schedule of the whole recipe."""
    batch_size: int = 16
    """Windows in a step."""
    data: str = "shakespeare"
    """As train.py takes it."""
    device: Device = "cpu"
    """Where the runs are trained; for mps jax computes on the CPU."""
    out_dir: Path = Path("out/curves")
    """Folder for the runs, curves.json and curves.svg."""


@dataclass(frozen=True)
class Recipe:
    """The model, its data and its schedule."""

    model: ModelConfig
    training: TrainingConfig
    splits: Splits
    steps: int
    device: str

    @classmethod
    def of(cls, curves: Curves) -> "Recipe":
        """The recipe of the preset reference on a corpus."""
        corpus = load_corpus(curves.data)
        tokenizer = CharTokenizer.from_text(corpus.text)
        default = PRESETS["reference"]
        model = replace(default.model, vocab_size=tokenizer.vocab_size)
        training = replace(default.training, batch_size=curves.batch_size)
        splits = Splits.of(corpus, tokenizer, model.block_size)
        return cls(model, training, splits, curves.steps, curves.device)

    def backend(self, name: str, state: TrainingState) -> Backend:
        return load_backend(name)(self.model, self.training, state, device=device_of(name, self.device))

    def initial(self, moved: bool = False) -> TrainingState:
        state = TrainingState.initial(self.model, self.training.seed)
        if not moved:
            return state
        up = np.float32(np.inf)
        return replace(state, weights={name: np.nextafter(w, up) for name, w in state.weights.items()})

    def draw(self, step: int) -> np.ndarray:
        """The windows `[B, T + 1]` of a step."""
        return self.splits.batch(self.training.seed, step, self.training.batch_size)

    def run(self, name: str) -> list[float]:
        """The batch loss of each step, then the validation loss."""
        *halves, moved = RUNS[name]
        state, losses = self.initial(moved), []
        for backend_name, first in zip(halves, (0, self.steps // 2), strict=True):
            backend = self.backend(backend_name, state)
            stop = first + self.steps // 2
            for start in range(first, stop, MAX_STEPS_PER_CALL):
                steps = range(start, min(start + MAX_STEPS_PER_CALL, stop))
                losses += backend.train(*step_inputs(self.draw, steps, self.training))().tolist()
            state = backend.state()
        tokens_N = self.splits.validation_tokens()
        return [*losses, mean_loss(backend, tokens_N, self.model.block_size)]


def gap(losses: Losses, pair: tuple[str, str], steps: slice = slice(-1)) -> float:
    """Root mean square of the difference of two runs' batch losses."""
    difference = np.subtract(losses[pair[0]][steps], losses[pair[1]][steps])
    return float(np.sqrt((difference**2).mean()))


def limit(losses: Losses) -> float:
    """The gap that rounding accounts for: twice that of the backend that strays less from itself."""
    return 2 * min(gap(losses, control) for control in CONTROLS)


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """The content of a JSON file, which is made and written first if there is none."""
    if not file.exists():
        part = file.with_suffix(".part")
        part.write_text(json.dumps(make()))
        part.replace(file)
    return json.loads(file.read_text())


def draw(losses: Losses, file: Path) -> None:
    """Both curves, and below them how far each pair is apart."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (curves, gaps) = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    ends = np.arange(WINDOW, len(losses["jax"]), WINDOW)
    for name, style in (("jax", "-"), ("torch", "--")):
        curves.plot(ends, np.reshape(losses[name][:-1], (-1, WINDOW)).mean(-1), style, label=name)
    curves.set_ylabel(f"batch loss, mean of {WINDOW} steps")
    curves.legend()
    for pair in [*PAIRS, *CONTROLS]:
        values = [gap(losses, pair, slice(end - WINDOW, end)) for end in ends]
        gaps.plot(ends, values, ":" if pair in CONTROLS else "-", label=f"{pair[0]} | {pair[1]}")
    gaps.set(xlabel="step", ylabel=f"gap (rms of {WINDOW} steps)", yscale="log")
    gaps.legend(fontsize="small", ncols=2)
    figure.savefig(file)


def main() -> None:
    curves = tyro.cli(Curves, use_underscores=True)
    curves.out_dir.mkdir(parents=True, exist_ok=True)
    recipe, console = Recipe.of(curves), Console(width=100)
    losses = {}
    for name in RUNS:
        file = curves.out_dir / f"{name.replace(', ', ' ').replace(' ', '_')}.json"
        losses[name] = kept(file, lambda name=name: recipe.run(name))
        console.print(f"{name}: validation {losses[name][-1]:.4f} after {curves.steps:,} steps")
    draw(losses, curves.out_dir / "curves.svg")

    table = Table("runs", "gap of the batch losses (rms)", "of the limit", "gap of the validation losses")
    for pair in [*CONTROLS, *PAIRS]:
        validation = abs(losses[pair[0]][-1] - losses[pair[1]][-1])
        apart = gap(losses, pair)
        row = (" | ".join(pair), f"{apart:.2e}", f"{apart / limit(losses):.2f}", f"{validation:.4f}")
        table.add_row(*row)
    console.print(table)
    figures = {"curves": asdict(curves), "losses": losses}
    (curves.out_dir / "curves.json").write_text(json.dumps(figures, default=str) + "\n")


if __name__ == "__main__":
    main()
