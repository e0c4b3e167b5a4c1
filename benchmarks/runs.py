"""Runs of train.py to compare, each in a folder of its own, and their curves."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from nanogpt import metrics

ROOT = Path(__file__).parents[1]
Flags = dict[str, str | int | float]


def train(folder: Path, flags: Flags) -> list[dict]:
    """Train, or go on, or find it finished: the run's evaluations. Exits as train.py does."""
    command = [sys.executable, "train.py", f"--out_dir={folder.absolute()}", *words(flags)]
    if code := subprocess.run(command, cwd=ROOT).returncode:
        sys.exit(code)  # train.py has said why
    return evaluations(folder)


def evaluations(folder: Path) -> list[dict]:
    """What a run has measured on both splits."""
    return metrics.evaluations(metrics.read_metrics(folder / "metrics.jsonl"))


def words(flags: Flags) -> list[str]:
    """Of a command line."""
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])


def draw(curves: dict[str, list[list[dict]]], file: Path) -> None:
    """Validation losses against iterations: the mean of each label's runs, and how far they lie apart."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "runs"  # the same runs, the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (label, runs) in enumerate(curves.items()):
        colour = pyplot.colormaps["viridis"](number / len(curves))
        steps = [r["step"] for r in runs[0][1:]]
        losses_RN = np.array([[r["val_loss"] for r in run[1:]] for run in runs])  # R runs, N evaluations
        mean_N = losses_RN.mean(axis=0)
        axes.plot(steps, mean_N, color=colour, label=f"{label}: {mean_N[-1]:.3f}")
        if len(runs) > 1:
            low_N, high_N = losses_RN.min(axis=0), losses_RN.max(axis=0)
            axes.fill_between(steps, low_N, high_N, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="iteration", ylabel="validation loss, nats a character")
    axes.legend(fontsize="small", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None})
