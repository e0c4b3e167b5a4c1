"""Seconds to a loss: train.py, then karpathy/nanoGPT with a model of the same size, on this machine's CPU.

    python -m benchmarks.race --nanogpt path/to/nanoGPT

Both evaluate the whole validation split, and their evaluations count. nanoGPT trains by the faster of its
eager and its compiled step, with the rates of its own train_shakespeare_char.py, but without dropout, as its
README advises for a CPU; its schedule ends when the time is up. What we ran into the folder is not repeated.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks import peers, runs
from benchmarks.contest import Step, contest
from benchmarks.shape import Shape
from nanogpt.text.corpus import Splits, load_corpus, windows
from nanogpt.text.tokenizer import CharTokenizer

Point = tuple[int, float, float]
"""Iterations, seconds since the start, and the validation loss then."""


@dataclass(frozen=True)
class Race:
    """Train both, one after the other, and tell when each reached a loss."""

    nanogpt: Path
    """A clone of karpathy/nanoGPT."""
    out_dir: Path = Path("out/race")
    """Folder for the runs and race.json."""
    target: float = 1.47
    """Validation loss in nats a character."""
    minutes: float = 60.0
    """nanoGPT's time, unless it reaches the target before."""
    ours: str = "--max_iters 700 --dropout 0 --learning_rate 6e-3 --eval_interval 100"
    """Flags of train.py, to be given with an equals sign: --ours="--max_iters 700"."""
    seeds: tuple[int, ...] = (1337, 1338, 1339)
    """Seeds of our runs."""
    backend: Literal["jax", "torch"] = "jax"
    data: str = "shakespeare"
    """Same as --data of train.py."""
    shape: Shape = field(default_factory=lambda: Shape(batch_size=16, dropout=0.0, attention_dropout=0.0))
    """nanoGPT's model and batch."""


def ours(race: Race, seed: int) -> list[Point]:
    """A run of train.py, which may be there already."""
    words = race.ours.split()
    flags: runs.Flags = dict(zip((w.removeprefix("--") for w in words[::2]), words[1::2], strict=True))
    flags |= {"seed": seed, "backend": race.backend, "data": race.data}
    evaluations = runs.train(race.out_dir / f"ours_{seed}", flags)
    return [(e.step, e.elapsed, e.val_loss) for e in evaluations]


def theirs(race: Race) -> Iterator[Point]:
    """nanoGPT's run: a point at each evaluation, about twenty in all, for which its schedule leaves time."""
    import torch

    makers: dict[str, Callable[[], Step]] = {
        name: partial(peers.training, race.shape, peers.nanogpt, race.nanogpt, compiled=name == "compiled")
        for name in ("eager", "compiled")
    }
    seconds = {name: min(result.seconds) for name, result in contest(makers, rounds=3, steps=2).items()}
    faster = min(seconds, key=seconds.__getitem__)
    print(f"nanoGPT, seconds a step: {seconds}")
    corpus = load_corpus(race.data)
    tokenizer = CharTokenizer.from_text(corpus.text)
    splits = Splits.of(corpus, tokenizer, race.shape.block_size)
    torch.manual_seed(1337)
    begun = time.perf_counter()
    model, optimizer = peers.nanogpt(race.shape, race.nanogpt)
    forward = torch.compile(model) if faster == "compiled" else model
    loss = exact_loss(model, splits)
    evaluations = 21 * (time.perf_counter() - begun)
    iterations = max(1, round((60 * race.minutes - evaluations) / seconds[faster]))
    every = max(1, iterations // 20)
    yield 0, time.perf_counter() - begun, loss
    for step in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, iterations)
        tokens_BT1 = torch.from_numpy(splits.batch(1337, step, race.shape.batch_size)).long()
        _, loss = forward(tokens_BT1[:, :-1].contiguous(), tokens_BT1[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % every == 0 or step + 1 == iterations:
            yield step + 1, time.perf_counter() - begun, exact_loss(model, splits)


def learning_rate(step: int, iterations: int) -> float:
    """The schedule of nanoGPT's train_shakespeare_char.py, as long as `iterations`."""
    if step < 100:
        return 1e-3 * (step + 1) / 101
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - 100) / max(1, iterations - 100))))
    return 1e-4 + cosine * (1e-3 - 1e-4)


def exact_loss(model: Any, splits: Splits) -> float:
    """Mean loss of every token of the validation split but its first, as ours is measured."""
    import torch
    from torch.nn import functional as F

    tokens_WT1, real_WT = windows(splits.validation_tokens(), splits.block_size)
    model.eval()
    losses = []
    with torch.no_grad():
        for tokens_BT1, real_BT in zip(
            np.array_split(tokens_WT1, 8), np.array_split(real_WT, 8), strict=True
        ):
            inputs, targets = (
                torch.from_numpy(t.copy()).long() for t in (tokens_BT1[:, :-1], tokens_BT1[:, 1:])
            )
            logits_BTV, _ = model(inputs, targets)
            losses.append(F.cross_entropy(logits_BTV.flatten(0, 1), targets.flatten(), reduction="none"))
            losses[-1] = losses[-1][torch.from_numpy(real_BT).flatten()]
    model.train()
    return float(torch.cat(losses).double().mean())


def reached(points: list[Point], target: float) -> str:
    """When a run reached a loss, or its last one."""
    for step, seconds, loss in points:
        if loss <= target:
            return f"{target} after {seconds:,.0f} s and {step:,} iterations"
    step, seconds, loss = points[-1]
    return f"{loss:.4f} after {seconds:,.0f} s and {step:,} iterations"


def main() -> None:
    race = tyro.cli(Race, use_underscores=True)
    race.out_dir.mkdir(parents=True, exist_ok=True)
    file, results = race.out_dir / "race.json", {}
    for seed in race.seeds:
        results[f"ours, seed {seed}"] = ours(race, seed)
        print(f"ours, seed {seed}: {reached(results[f'ours, seed {seed}'], race.target)}")
    points: list[Point] = []
    for point in theirs(race):
        points.append(point)
        print(f"nanoGPT: {reached([point], race.target)}", flush=True)
        if point[2] <= race.target or point[1] > 60 * race.minutes:
            break
    results["nanoGPT"] = points
    file.write_text(json.dumps(results) + "\n", encoding="utf-8")
    for name, run in results.items():
        print(f"{name}: {reached(run, race.target)}")


if __name__ == "__main__":
    main()
