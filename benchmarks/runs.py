"""Runs of train.py to compare, each in a folder of its own, with their tables and curves."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt.record import Evaluation
from nanogpt.training.metrics import evaluations, read_metrics

ROOT = Path(__file__).parents[1]
Flags = dict[str, str | int | float]


def train(folder: Path, flags: Flags) -> list[Evaluation]:
    """Evaluations of a run, which is started, continued or finished already. Exits if train.py fails."""
    command = [sys.executable, "train.py", f"--out_dir={folder.absolute()}", *arguments(flags)]
    if code := subprocess.run(command, cwd=ROOT).returncode:
        sys.exit(code)  # train.py has printed the reason
    return evaluated(folder)


def evaluated(folder: Path) -> list[Evaluation]:
    """The evaluations of the run in a folder."""
    return evaluations(read_metrics(folder / "metrics.jsonl"))


def arguments(flags: Flags) -> list[str]:
    """Flags in the form of a command line."""
    return [argument for name, value in flags.items() for argument in (f"--{name}", str(value))]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])


Points = Sequence[tuple[float, float]]
"""Iterations or seconds, and a validation loss."""


def draw(curves: dict[str, list[list[Evaluation]]], file: Path) -> None:
    """Draw validation losses over iterations: for each label the mean of its runs, and their range."""
    drawing, (axes,) = figure(1)
    for number, (label, runs) in enumerate(curves.items()):
        curve(axes, label, [[(r.step, r.val_loss) for r in run[1:]] for run in runs], number / len(curves))
    axes.set(xlabel="iteration", ylabel="validation loss, nats a character")
    save(drawing, [axes], file)


def figure(panels: int) -> tuple[Any, Any]:
    """A figure of matplotlib, and its axes `[panels]`."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "runs"  # the same runs must draw the same file
    from matplotlib import pyplot

    size = (8 if panels == 1 else 10, 4.5)
    drawing, axes = pyplot.subplots(1, panels, figsize=size, layout="constrained", squeeze=False)
    return drawing, axes[0]


def curve(axes: Any, label: str, runs: Sequence[Points], place: float) -> None:
    """Draw the mean of runs and their range, in the colour at `place` of 0 to 1."""
    from matplotlib import pyplot

    colour = pyplot.colormaps["viridis"](place)
    x_RN, loss_RN = np.moveaxis(np.array(runs), -1, 0)  # R runs, N evaluations
    x_N, mean_N = x_RN.mean(axis=0), loss_RN.mean(axis=0)
    axes.plot(x_N, mean_N, color=colour, marker=".", label=f"{label}: {mean_N[-1]:.3f}")
    if len(runs) > 1:
        axes.fill_between(x_N, loss_RN.min(axis=0), loss_RN.max(axis=0), color=colour, alpha=0.2, linewidth=0)


def save(drawing: Any, axes: Any, file: Path) -> None:
    for panel in axes:
        panel.legend(fontsize="small", frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    drawing.savefig(file, metadata={"Date": None})
