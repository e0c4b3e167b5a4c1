"""How fast is it here? Both twins and, given clones of them, the projects that they are measured against.

python -m benchmarks --nanogpt path/to/nanoGPT --lecture path/to/ng-video-lecture
python -m benchmarks training --sweep batch_size
"""

import json
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import contenders
from benchmarks.contenders import Shape
from benchmarks.contest import Result, Step, contest, show

Item = Literal["training", "loop", "evaluation", "generation", "checkpoint", "start"]
ITEMS: tuple[Item, ...] = ("training", "loop", "evaluation", "generation", "checkpoint", "start")
PAST_TOKENS = 32  # generated past the window, where each costs a whole forward pass
Makers = dict[str, Callable[[], Step]]


@dataclass(frozen=True)
class Benchmark:
    """Measure on this machine's CPU, in float32: side by side, in turns, as ratios."""

    items: tyro.conf.Positional[tuple[Item, ...]] = ITEMS
    """What to measure; everything if not given."""
    shape: Shape = field(default_factory=Shape)
    nanogpt: Path | None = None
    """A clone of karpathy/nanoGPT to measure beside."""
    lecture: Path | None = None
    """A clone of karpathy/ng-video-lecture to measure beside."""
    compile: bool = False
    """Train with torch.compile too, ours and nanoGPT's."""
    framework_dropout: bool = False
    """Train also with each framework's own dropout in place of the shared hash."""
    sweep: Literal["batch_size", "block_size", "n_embd"] | None = None
    """Train at eight, four and two times less than the shape's, and at the shape's own."""
    rounds: int = 5
    """Turns of every contender."""
    steps: int = 2
    """Steps of a turn."""
    json: Path | None = None
    """Also write the figures there."""

    @property
    def peers(self) -> dict[str, tuple[Callable, Path]]:
        given = {
            "nanoGPT": (contenders.nanogpt, self.nanogpt),
            "lecture": (contenders.lecture, self.lecture),
        }
        return {name: (peer, path.absolute()) for name, (peer, path) in given.items() if path}


def limits(shape: Shape) -> Makers:
    return {
        "large products": partial(contenders.large_products, shape),
        "memory copy": partial(contenders.memory_copy, shape),
    }


def training(benchmark: Benchmark, shape: Shape) -> Makers:
    makers: Makers = {"large products": partial(contenders.large_products, shape)}
    for name in ("jax", "torch"):
        makers[name] = partial(contenders.train, shape, name)
        if benchmark.framework_dropout:
            makers[f"{name}, its own dropout"] = partial(
                contenders.train, shape, name, framework_dropout=True
            )
    if benchmark.compile:
        makers["torch --compile"] = partial(contenders.train, shape, "torch", compile=True)
    for name, (peer, path) in benchmark.peers.items():
        makers[name] = partial(contenders.peer_training, shape, peer, path)
        if benchmark.compile and name == "nanoGPT":
            makers["nanoGPT compiled"] = partial(contenders.peer_training, shape, peer, path, compiled=True)
    return makers


def evaluation(benchmark: Benchmark, shape: Shape) -> Makers:
    ours: Makers = {name: partial(contenders.evaluation, shape, name) for name in ("jax", "torch")}
    peers = benchmark.peers.items()
    return ours | {
        name: partial(contenders.peer_evaluation, shape, peer, path) for name, (peer, path) in peers
    }


def generation(benchmark: Benchmark, shape: Shape, prompt: int, count: int) -> Makers:
    ours: Makers = {
        name: partial(contenders.generation, shape, name, prompt, count) for name in ("jax", "torch")
    }
    peers = benchmark.peers.items()
    return ours | {
        name: partial(contenders.peer_generation, shape, peer, path, prompt, count)
        for name, (peer, path) in peers
    }


def checkpoint(shape: Shape) -> Makers:
    return {
        "save": partial(contenders.checkpoint, shape, load=False),
        "load": partial(contenders.checkpoint, shape, load=True),
    }


def start(shape: Shape) -> Makers:
    sample = partial(
        contenders.command, shape, "sample.py", "--out_dir=RUN", "--max_tokens=500", "--prompt=A"
    )
    return {
        "import nanogpt": partial(contenders.command, shape, "-c", "import nanogpt"),
        "sample.py, 500 tokens, jax": partial(sample, "--backend=jax"),
        "sample.py, 500 tokens, torch": partial(sample, "--backend=torch"),
    }


def measure(benchmark: Benchmark) -> dict[str, dict[str, Result]]:
    """Every item that was asked for, each printed when it is done."""
    shape, run = benchmark.shape, partial(contest, rounds=benchmark.rounds, steps=benchmark.steps)
    found: dict[str, dict[str, Result]] = {"limits": run(limits(shape))}
    show_limits(shape, found["limits"])
    if benchmark.sweep:
        sizes = {getattr(shape, benchmark.sweep) // share for share in (8, 4, 2, 1)}
        for size in sorted(sizes - {0}):
            swept = replace(shape, **{benchmark.sweep: size})
            found[f"{benchmark.sweep} {size}"] = run(training(benchmark, swept))
        show_sweep(dict(list(found.items())[1:]))
        return found
    if "training" in benchmark.items:
        found["training"] = run(training(benchmark, shape))
        show(
            "A training step", found["training"], tokens=shape.tokens, limit="large products", peer="nanoGPT"
        )
    if "loop" in benchmark.items:
        for name in ("jax", "torch"):
            both: Makers = {
                "bare": partial(contenders.bare, shape, name),
                "loop": partial(contenders.loop, shape, name),
            }
            found[f"loop {name}"] = run(both, steps=1)
            title = f"{contenders.LOOP_STEPS} steps of {name}: alone, and in the loop of train.py"
            show(title, found[f"loop {name}"], peer="bare")
    if "evaluation" in benchmark.items:
        found["evaluation"] = run(evaluation(benchmark, shape))
        show("The losses of a batch", found["evaluation"], tokens=shape.tokens, peer="nanoGPT")
    if "generation" in benchmark.items:
        inside = shape.block_size - 1
        for name, prompt, count in (("inside", 1, inside), ("past", shape.block_size, PAST_TOKENS)):
            found[f"generation {name}"] = run(generation(benchmark, shape, prompt, count))
            title = f"{count} tokens {name} the window, batch 1"
            show(title, found[f"generation {name}"], tokens=count, peer="nanoGPT")
    if "checkpoint" in benchmark.items:
        found["checkpoint"] = run(checkpoint(shape))
        show("A checkpoint: weights and both moments", found["checkpoint"])
    if "start" in benchmark.items:
        found["start"] = run(start(shape), steps=1)
        show("From the key press to the last character", found["start"])
    return found


def show_limits(shape: Shape, results: dict[str, Result]) -> None:
    products, copy = (statistics.median(results[name].seconds) for name in ("large products", "memory copy"))
    Console(width=130).print(
        f"This machine: {shape.operations / products / 1e9:,.0f} GFLOP/s in large products, "
        f"{2 * contenders.COPIED / copy / 1e9:.1f} GB/s read and written in a copy"
    )


def show_sweep(found: dict[str, dict[str, Result]]) -> None:
    """How the cost of a step grows when a size doubles."""
    names = list(next(iter(found.values())))
    table = Table(
        "", *names, title="Seconds a step, and how many times those of the row above", title_justify="left"
    )
    before: dict[str, float] = {}
    for size, results in found.items():
        medians = {name: statistics.median(results[name].seconds) for name in names}
        growth = {name: f" ({medians[name] / before[name]:.2f}x)" if before else "" for name in names}
        table.add_row(size, *(f"{medians[name]:.3g}{growth[name]}" for name in names))
        before = medians
    Console(width=130).print(table)


def main() -> None:
    benchmark = tyro.cli(Benchmark, use_underscores=True, config=(tyro.conf.OmitArgPrefixes,))
    found = measure(benchmark)
    if benchmark.json:
        machine = {"machine": platform.platform(), "python": platform.python_version()}
        results = {item: {name: asdict(r) for name, r in results.items()} for item, results in found.items()}
        figures = {"benchmark": asdict(benchmark), **machine, "results": results}
        benchmark.json.write_text(json.dumps(figures, indent=2, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
