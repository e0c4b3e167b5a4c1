"""One GPU measured in one command of at most ten minutes: `python -m benchmarks.gpu --json gpu.json`.

The most important items come first (gpu_items.py). Each runs in a process of its own, so that an item that
fails or hangs does not stop the others, and the figures are written to disk after each. Without a GPU the
items run at toy size on the CPU, which tests the command and measures nothing.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_items import Figures, items

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Gpu:
    """Measure this machine's GPU, item by item."""

    json: Path | None = None
    """Write the results to this file, anew after each item."""
    seconds: float = 580.0
    """Time limit: items that have not begun by then are left out."""
    item: str | None = None
    """Run this item alone, in this process, and print its figures as JSON."""


def main() -> None:
    gpu = tyro.cli(Gpu, use_underscores=True)
    if gpu.item:
        print(json.dumps(items()[gpu.item]()))
        return
    console = Console(width=130)
    results: dict[str, Figures] = {}
    end = time.monotonic() + gpu.seconds
    for name in items():
        left = end - time.monotonic()
        results[name] = alone(name, left) if left > 0 else {"left out": "no time was left"}
        console.print(name, results[name])
        if gpu.json:
            gpu.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    console.print(summary(results))


def alone(name: str, seconds: float) -> Figures:
    """Figures of one item, measured in a process of its own that may take `seconds`."""
    command = [sys.executable, "-m", "benchmarks.gpu", f"--item={name}"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {seconds:.0f} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    return json.loads(done.stdout.splitlines()[-1])


def summary(results: dict[str, Figures]) -> Table:
    """A table of the figures that most items have."""
    columns = ("ms a step", "tokens/s", "MFU", "first call, s", "seconds", "val_loss")
    table = Table("", *columns)
    for name, figures in results.items():
        if any(column in figures for column in columns):
            cells = [figures.get(column) for column in columns]
            texts = [f"{cell:,.4g}" if isinstance(cell, float) else str(cell or "") for cell in cells]
            table.add_row(name, *texts)
    return table


if __name__ == "__main__":
    main()
