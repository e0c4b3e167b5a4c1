"""The losses of the recipes, over several seeds: the default model of 1.23 million parameters, and quick's.

    python -m benchmarks.frontier --out_dir out/frontier --race out/race/race.json

Every run is a run of train.py in a folder of its own, so an interrupted run goes on and a finished run is not
repeated. frontier.md and frontier.svg, in the same folder, show every finished run that is there.
"""

import json
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import tyro

from benchmarks import runs
from benchmarks.runs import Flags
from nanogpt.record import Evaluation
from nanogpt.training.run import saved_config

TARGET = 1.47  # nats a character: nanoGPT's, for 10.65M parameters

# Differences from the defaults.
RECIPES: dict[str, Flags] = {
    "quick": {"preset": "quick"},
    "short": {"max_iters": 1050, "dropout": 0, "weight_decay": 0.5, "eval_interval": 350},
    "default": {},
    "long": {"max_iters": 9000, "dropout": 0.2, "weight_decay": 0.2, "eval_interval": 1000},
    "reference": {"preset": "reference"},
}


@dataclass(frozen=True)
class Frontier:
    """Train every recipe with every seed, and compare."""

    out_dir: Path = Path("out/frontier")
    """Folder for the runs, frontier.md and frontier.svg."""
    recipes: tuple[str, ...] = tuple(RECIPES)
    """Recipes to run."""
    seeds: tuple[int, ...] = (1337, 1338, 1339)
    """Seeds of the runs; a seed decides weights, batches and dropout."""
    data: str = "shakespeare"
    """Same as --data of train.py."""
    backend: str = "jax"
    """jax or torch."""
    dtype: str = "float32"
    """Same as --dtype of train.py."""
    race: Path | None = None
    """race.json of benchmarks.race: losses over seconds, beside nanoGPT, which had the same cores."""


def measured(folder: Path) -> dict[str, dict[int, list[Evaluation]]]:
    """The evaluations of every finished run, by recipe and seed."""
    found: dict[str, dict[int, list[Evaluation]]] = {}
    for recipe in RECIPES:
        for seed, evaluations in sorted(
            (int(file.parent.name.split("_")[-1]), runs.evaluated(file.parent))
            for file in folder.glob(f"{recipe}_*/metrics.jsonl")
        ):
            config = saved_config(folder / f"{recipe}_{seed}")
            if config and evaluations and evaluations[-1].step == config.training.max_iters:
                found.setdefault(recipe, {})[seed] = evaluations
    return found


def row(recipe: str, found: dict[int, list[Evaluation]]) -> list[str]:
    """A row of frontier.md, from the evaluations of each seed."""
    reached = [next((r.step for r in run if r.val_loss <= TARGET), None) for run in found.values()]
    return [
        recipe,
        f"`{' '.join(runs.arguments(RECIPES[recipe]))}`" if RECIPES[recipe] else "none",
        f"{next(iter(found.values()))[-1].step:,}",
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


def draw(found: dict[str, dict[int, list[Evaluation]]], race: Path | None, file: Path) -> None:
    """Draw validation losses over iterations, and those of a race over seconds too."""
    figure, axes = runs.figure(2 if race else 1)
    for number, (recipe, by_seed) in enumerate(found.items()):
        points = [[(e.step, e.val_loss) for e in run[1:]] for run in by_seed.values()]
        runs.curve(axes[0], recipe, points, number / len(found))
    axes[0].set(xlabel="iteration", ylabel="validation loss, nats a character")
    if race:
        contestants: dict[str, list[list[tuple[float, float]]]] = {}
        for name, points in json.loads(race.read_text(encoding="utf-8")).items():
            of_name = [(seconds, loss) for step, seconds, loss in points if step]
            contestants.setdefault(name.split(",")[0], []).append(of_name)
        for number, (name, of_seeds) in enumerate(contestants.items()):
            runs.curve(axes[1], name, of_seeds, number / len(contestants))
        axes[1].set(xlabel="seconds on the same two cores")
    for panel in axes:
        panel.axhline(TARGET, color="grey", linewidth=0.8, linestyle=":")
        panel.set(ylim=(1.35, 1.9))
    runs.save(figure, axes, file)


def main() -> None:
    frontier = tyro.cli(Frontier, use_underscores=True)
    if missing := sorted(set(frontier.recipes) - set(RECIPES)):
        sys.exit(f"there is no recipe {missing[0]!r}: choose from {', '.join(RECIPES)}")
    for recipe, seed in product(frontier.recipes, frontier.seeds):
        shared: Flags = {"seed": seed, "data": frontier.data, "backend": frontier.backend}
        flags = shared | {"dtype": frontier.dtype} | RECIPES[recipe]
        runs.train(frontier.out_dir / f"{recipe}_{seed}", flags)
    found = measured(frontier.out_dir)
    head = ["recipe", "flags", "iterations", "seeds", "train", "validation"]
    head.append(f"first evaluation at {TARGET} or below")
    table = runs.table(head, [row(recipe, by_seed) for recipe, by_seed in found.items()])
    (frontier.out_dir / "frontier.md").write_text(table, encoding="utf-8")
    draw(found, frontier.race, frontier.out_dir / "frontier.svg")
    print(table)


if __name__ == "__main__":
    main()
