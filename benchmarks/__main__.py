"""Speed of both twins on this machine and, given clones of them, of the projects to compare with.

python -m benchmarks --nanogpt path/to/nanoGPT --lecture path/to/ng-video-lecture
python -m benchmarks training --sweep batch_size
"""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from benchmarks import contenders, peers
from benchmarks.contest import Result, Step, contest
from benchmarks.peers import Peer
from benchmarks.shape import Shape
from benchmarks.tables import show, show_limits, show_sweep

Item = Literal["training", "loop", "evaluation", "generation", "checkpoint", "start"]
ITEMS: tuple[Item, ...] = ("training", "loop", "evaluation", "generation", "checkpoint", "start")
PAST_TOKENS = 32  # few, because past the window each costs a whole forward pass
Makers = dict[str, Callable[[], Step]]


@dataclass(frozen=True)
class Benchmark:
    """Measure contenders on this machine's CPU, taking turns."""

    items: tyro.conf.Positional[tuple[Item, ...]] = ITEMS
    """Items to measure; all of them by default."""
    shape: Shape = field(default_factory=Shape)
    nanogpt: Path | None = None
    """A clone of karpathy/nanoGPT to compare with."""
    lecture: Path | None = None
    """A clone of karpathy/ng-video-lecture to compare with."""
    compile: bool = False
    """Also train with torch.compile, both our PyTorch twin and nanoGPT."""
    framework_dropout: bool = False
    """Also train with each framework's own dropout in place of the shared hash."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Train our twins in it; the others train in float32, as they do on a CPU."""
    sweep: Literal["batch_size", "block_size", "n_embd"] | None = None
    """Instead of the items, measure training at 1/8, 1/4, 1/2 and all of this size of the shape."""
    rounds: int = 5
    """Turns that every contender takes."""
    steps: int = 2
    """Steps in a turn."""
    json: Path | None = None
    """Also write the figures to this file."""

    @property
    def peers(self) -> dict[str, tuple[Peer, Path]]:
        given = {
            "nanoGPT": (peers.nanogpt, self.nanogpt),
            "lecture": (peers.lecture, self.lecture),
        }
        return {name: (peer, path.absolute()) for name, (peer, path) in given.items() if path}


def limits(shape: Shape) -> Makers:
    return {
        "large matmuls": partial(contenders.large_matmuls, shape),
        "memory copy": partial(contenders.memory_copy, shape),
    }


def training(benchmark: Benchmark, shape: Shape) -> Makers:
    makers: Makers = {"large matmuls": partial(contenders.large_matmuls, shape)}
    ours = partial(contenders.training, shape, dtype=benchmark.dtype)
    for name in ("jax", "torch"):
        makers[name] = partial(ours, name)
        makers[f"{name}, Muon"] = partial(ours, name, optimizer="muon")
        if benchmark.framework_dropout:
            makers[f"{name}, its own dropout"] = partial(ours, name, framework_dropout=True)
    if benchmark.compile:
        makers["torch --compile"] = partial(ours, "torch", compile=True)
    for name, (peer, path) in benchmark.peers.items():
        makers[name] = partial(peers.training, shape, peer, path)
        if benchmark.compile and name == "nanoGPT":
            makers["nanoGPT compiled"] = partial(peers.training, shape, peer, path, compiled=True)
    return makers


def evaluation(benchmark: Benchmark, shape: Shape) -> Makers:
    ours: Makers = {name: partial(contenders.evaluation, shape, name) for name in ("jax", "torch")}
    theirs = {
        name: partial(peers.evaluation, shape, peer, path) for name, (peer, path) in benchmark.peers.items()
    }
    return ours | theirs


def generation(benchmark: Benchmark, shape: Shape, prompt: int, count: int) -> Makers:
    ours: Makers = {
        name: partial(contenders.generation, shape, name, prompt, count) for name in ("jax", "torch")
    }
    theirs = {
        name: partial(peers.generation, shape, peer, path, prompt, count)
        for name, (peer, path) in benchmark.peers.items()
    }
    return ours | theirs


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
    """Results of every item that was asked for; each is printed when it is done."""
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
        show("A training step", found["training"], tokens=shape.tokens, limit="large matmuls", peer="nanoGPT")
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
        show("A command in a fresh process, from start to exit", found["start"])
    return found


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
