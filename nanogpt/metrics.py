"""What a run measures: `metrics.jsonl` and the lines that a person sees."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

Record = dict[str, Any]


class Metrics:
    """`metrics.jsonl`: one object a line, every step at most once.

    Keys: step; loss of that step's batch; train_loss and val_loss (null between evaluations);
    learning_rate of that step's update; tokens_per_second; mfu, the share of the card's peak (null for a card
    that is not known); elapsed seconds; sample, a short text (null between evaluations). Losses in nats.
    """

    def __init__(self, file: Path, last_step: int) -> None:
        """Keep the lines up to `last_step`: what lies past it is about to be measured again."""
        self._file = file
        self.records = [record for record in read_metrics(file) if record["step"] <= last_step]
        self._followers: list[Callable[[Record], None]] = []
        write_atomically(file, "".join(json.dumps(record) + "\n" for record in self.records))

    def append(self, record: Record) -> None:
        self.records.append(record)
        with self._file.open("a", encoding="utf-8", newline="\n") as lines:
            lines.write(json.dumps(record) + "\n")
        for follow in self._followers:
            follow(record)

    def follow(self, what: str, follower: Callable[[Record], None], warn: Callable[[str], None]) -> None:
        """Hand records to a follower that writes `what`. Its failures stop nothing; the first is told."""
        failures: list[Exception] = []

        def follow(record: Record) -> None:
            try:
                follower(record)
            except Exception as error:  # of whatever kind: the training is worth more
                if not failures:
                    warn(f"{what} can't be written ({error}): the training goes on without")
                failures.append(error)

        self._followers.append(follow)

    @property
    def evaluations(self) -> list[Record]:
        return evaluations(self.records)


def evaluations(records: list[Record]) -> list[Record]:
    """The records that hold both losses and a sample."""
    return [record for record in records if record["val_loss"] is not None]


def read_metrics(file: Path) -> list[Record]:
    """The records of a `metrics.jsonl`, without a last line that was cut short."""
    records = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def write_atomically(file: Path, text: str) -> None:
    """Replace a file whole, so that nobody ever reads half of it."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


class Reporter:
    """Tells a person how a run is going: a live line on a terminal, plain lines elsewhere, or nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._console = Console(quiet=quiet, highlight=False, emoji=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._smoothed = math.nan

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Said on standard error, and also when quiet."""
        print(text, file=sys.stderr)

    @contextmanager
    def following(self, step: int, max_iters: int) -> Iterator[None]:
        """Show the live line while the block runs."""
        if not self._console.is_terminal or self.quiet:
            yield
            return
        columns: list[ProgressColumn | str] = [
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[pace]}"),
        ]
        with Progress(*columns, console=self._console, transient=True) as progress:
            self._progress = progress
            progress.add_task("", total=max_iters, completed=step, pace="")
            yield
            self._progress = None

    def step(self, record: Record, left: float | None) -> None:
        """After a dispatch: move the live line on. `left` are the seconds to the end, where known."""
        loss = record["loss"]
        # A running mean over about 10 dispatches: single batches jump too much to be read.
        self._smoothed = loss if math.isnan(self._smoothed) else 0.9 * self._smoothed + 0.1 * loss
        if self._progress:
            task = self._progress.task_ids[0]
            description = f"loss {self._smoothed:.4f}"
            self._progress.update(
                task, completed=record["step"], description=description, pace=pace(record, left)
            )

    def line(self, record: Record, left: float | None) -> None:
        """At a log interval: a plain line, where there is no live one."""
        if not self._progress:
            self.say(f"step {record['step']:6,}  loss {record['loss']:.4f}  {pace(record, left)}")

    def evaluation(self, record: Record) -> None:
        self.say(
            f"step {record['step']:6,}  train {record['train_loss']:.4f}  "
            f"validation {record['val_loss']:.4f}  {record['elapsed']:,.0f} s"
        )
        self.say("".join(f"    | {line}\n" for line in record["sample"].strip().splitlines()))


def seconds_left(
    step: int, max_iters: int, eval_interval: int, step_seconds: float, evaluation_seconds: float
) -> float:
    """Seconds from `step`, which is not evaluated yet, to the end: of steps and evaluations like the last."""
    evaluations_left = -(-max_iters // eval_interval) - -(-step // eval_interval) + 1
    return (max_iters - step) * step_seconds + evaluations_left * evaluation_seconds


def clock(seconds: float) -> str:
    """h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


def pace(record: Record, left: float | None = None) -> str:
    """Speed, share of the card's peak and time left, as far as they are known."""
    told = [
        ("{:,} tokens/s", record["tokens_per_second"]),
        ("{:.0%} MFU", record["mfu"]),
        ("{} left", None if left is None else clock(left)),
    ]
    return ", ".join(form.format(value) for form, value in told if value is not None)
