"""The loss that a number of iterations reaches: the default model, by schedules of several lengths and seeds.

    python -m benchmarks.frontier --out_dir out/frontier

Every run is a run of train.py in a folder of its own, so an interrupted run goes on and a finished run is not
repeated. frontier.md and frontier.svg, in the same folder, show every finished run that is there.
"""

import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import tyro

from benchmarks import runs
from benchmarks.runs import Flags
from nanogpt.record import Evaluation

TARGET = 1.47  # nats a character: the reference run's validation loss, and nanoGPT's for 10.65M parameters

# Differences from the preset reference, by the iterations of the schedule.
RECIPES: dict[int, Flags] = {
    2_500: {"batch_size": 16, "learning_rate": 3e-3, "min_lr": 1e-4},
    5_000: {"batch_size": 32, "learning_rate": 3e-3, "min_lr": 1e-4, "weight_decay": 0.5},
    10_000: {"batch_size": 16},
}


@dataclass(frozen=True)
class Frontier:
    """Train every schedule with every seed, and compare."""

    out_dir: Path = Path("out/frontier")
    """Folder for the runs, frontier.md and frontier.svg."""
    iterations: tuple[int, ...] = tuple(RECIPES)
    """Lengths of the schedules to run."""
    seeds: tuple[int, ...] = (1337, 1338, 1339)
    """Seeds of the runs; a seed decides weights, batches and dropout."""
    data: str = "shakespeare"
    """Same as --data of train.py."""
    backend: str = "jax"
    """jax or torch."""


def measured(folder: Path) -> dict[int, dict[int, list[Evaluation]]]:
    """The evaluations of every finished run, by iterations and seed."""
    found: dict[int, dict[int, list[Evaluation]]] = {}
    for iterations in RECIPES:
        for file in sorted(folder.glob(f"{iterations}_*/metrics.jsonl")):
            seed = int(file.parent.name.split("_")[1])
            evaluations = runs.evaluated(file.parent)
            if evaluations and evaluations[-1].step == iterations:
                found.setdefault(iterations, {})[seed] = evaluations
    return found


def row(iterations: int, found: dict[int, list[Evaluation]]) -> list[str]:
    """A row of frontier.md, from the evaluations of each seed."""
    reached = [next((r.step for r in run if r.val_loss <= TARGET), None) for run in found.values()]
    return [
        f"{iterations:,}",
        f"`{' '.join(runs.arguments(RECIPES[iterations]))}`",
        ", ".join(map(str, found)),
        spread([run[-1].train_loss for run in found.values()]),
        spread([run[-1].val_loss for run in found.values()]),
        ", ".join(f"{step:,}" if step else "not reached" for step in reached),
    ]


def spread(losses: list[float]) -> str:
    """One loss as it is; of several the mean, the standard deviation and the range."""
    if len(losses) == 1:
        return f"{losses[0]:.4f}"
    return f"{mean(losses):.4f} ± {stdev(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})"


def main() -> None:
    frontier = tyro.cli(Frontier, use_underscores=True)
    if missing := set(frontier.iterations) - set(RECIPES):
        sys.exit(
            f"there is no recipe for {min(missing)} iterations: choose from {', '.join(map(str, RECIPES))}"
        )
    for iterations, seed in product(frontier.iterations, frontier.seeds):
        flags = RECIPES[iterations] | {
            "preset": "reference",
            "max_iters": iterations,
            "eval_interval": max(1, iterations // 20),
            "seed": seed,
            "data": frontier.data,
            "backend": frontier.backend,
        }
        runs.train(frontier.out_dir / f"{iterations}_{seed}", flags)
    found = measured(frontier.out_dir)
    head = ["iterations", "flags", "seeds", "train", "validation", f"first evaluation at {TARGET} or below"]
    table = runs.table(head, [row(iterations, by_seed) for iterations, by_seed in found.items()])
    (frontier.out_dir / "frontier.md").write_text(table, encoding="utf-8")
    curves = {f"{iterations:,} iterations": list(by_seed.values()) for iterations, by_seed in found.items()}
    runs.draw(curves, frontier.out_dir / "frontier.svg")
    print(table)


if __name__ == "__main__":
    main()
