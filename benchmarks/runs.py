"""Runs of train.py to compare, each in a folder of its own, with their tables and curves."""

import subprocess
import sys
from pathlib import Path

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


def draw(curves: dict[str, list[list[Evaluation]]], file: Path) -> None:
    """Draw validation losses against iterations: for each label the mean of its runs, and their range."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "runs"  # the same runs must draw the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (label, runs) in enumerate(curves.items()):
        colour = pyplot.colormaps["viridis"](number / len(curves))
        steps = [r.step for r in runs[0][1:]]
        losses_RN = np.array([[r.val_loss for r in run[1:]] for run in runs])  # R runs, N evaluations
        mean_N = losses_RN.mean(axis=0)
        axes.plot(steps, mean_N, color=colour, label=f"{label}: {mean_N[-1]:.3f}")
        if len(runs) > 1:
            low_N, high_N = losses_RN.min(axis=0), losses_RN.max(axis=0)
            axes.fill_between(steps, low_N, high_N, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="iteration", ylabel="validation loss, nats a character")
    axes.legend(fontsize="small", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None})
