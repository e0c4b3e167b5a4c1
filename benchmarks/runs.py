"""Runs of train.py to compare, each in a folder of its own, and their curves."""

import subprocess
import sys
from pathlib import Path

from nanogpt import metrics

ROOT = Path(__file__).parents[1]
Flags = dict[str, str | int | float]


def train(folder: Path, flags: Flags) -> list[dict]:
    """Train, or go on where it was interrupted, or find it finished; its evaluations in metrics.jsonl."""
    command = [sys.executable, "train.py", f"--out_dir={folder.absolute()}", *in_words(flags)]
    subprocess.run(command, cwd=ROOT, check=True)
    return evaluations(folder)


def evaluations(folder: Path) -> list[dict]:
    """What a run has measured on both splits."""
    return metrics.evaluations(metrics.read_metrics(folder / "metrics.jsonl"))


def in_words(flags: Flags) -> list[str]:
    """As train.py takes them."""
    return [f"--{name}={value}" for name, value in flags.items()]


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])


def draw(curves: dict[str, list[list[dict]]], file: Path) -> None:
    """Validation losses against iterations: the mean of each label's runs, and how far they lie apart."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (label, runs) in enumerate(curves.items()):
        colour = pyplot.colormaps["viridis"](number / len(curves))
        steps = [r["step"] for r in runs[0][1:]]
        losses_RN = [[r["val_loss"] for r in run[1:]] for run in runs]
        low_N, high_N = ([pick(losses) for losses in zip(*losses_RN, strict=True)] for pick in (min, max))
        mean_N = [sum(losses) / len(losses) for losses in zip(*losses_RN, strict=True)]
        axes.plot(steps, mean_N, color=colour, label=f"{label}: {mean_N[-1]:.3f}")
        axes.fill_between(steps, low_N, high_N, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="iteration", ylabel="validation loss, nats a character")
    axes.legend(fontsize="small", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)
