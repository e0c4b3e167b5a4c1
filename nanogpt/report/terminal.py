"""A run on the terminal: a live line where there is one, plain lines elsewhere, or nothing."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

from nanogpt.record import Evaluation, Record
from nanogpt.training import log


class Terminal:
    """Tells a person how a run is going; as a follower, it is called with each progress."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        # Plain text in a notebook too, where LiveCurve shows the rest.
        self._console = Console(
            quiet=quiet, highlight=False, emoji=False, soft_wrap=True, force_jupyter=False
        )
        self._live: Progress | None = None
        self._smoothed = math.nan
        self._is_estimated = False

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print on standard error, even when quiet."""
        print(text, file=sys.stderr)

    @contextmanager
    def live(self, step: int, max_iters: int) -> Iterator[None]:
        """Show the live line while the block runs."""
        if not self._console.is_terminal or self.quiet or in_notebook():
            yield
            return
        columns: list[ProgressColumn | str] = [
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[pace]}"),
        ]
        with Progress(*columns, console=self._console, transient=True) as self._live:
            self._live.add_task("", total=max_iters, completed=step, pace="")
            yield
        self._live = None

    def __call__(self, progress: log.Progress) -> None:
        record, left = progress.record, progress.seconds_left
        if left is not None and not self._is_estimated:
            self._is_estimated = True
            self.say(f"About {clock(left)} to the end")
        if isinstance(record, Evaluation):
            self._evaluation(record)
        elif progress.kind == "call":
            self._move(record, left)
        elif not self._live and not in_notebook():
            self.say(f"step {record.step:6,}  loss {record.loss:.4f}  {pace(record, left)}")

    def _move(self, record: Record, left: float | None) -> None:
        """Move the live line on."""
        assert record.loss is not None
        # A running mean over about 10 calls: single batches jump too much to be read.
        mean = record.loss if math.isnan(self._smoothed) else self._smoothed
        self._smoothed = 0.9 * mean + 0.1 * record.loss
        if self._live:
            (task,) = self._live.task_ids
            description = f"loss {self._smoothed:.4f}"
            self._live.update(task, completed=record.step, description=description, pace=pace(record, left))

    def _evaluation(self, record: Evaluation) -> None:
        self.say(
            f"step {record.step:6,}  train {record.train_loss:.4f}  "
            f"validation {record.val_loss:.4f}  {record.elapsed:,.0f} s"
        )
        self.say("".join(f"    | {line}\n" for line in record.sample.strip().splitlines()))


def in_notebook() -> bool:
    """True in a kernel of Jupyter, which shows the live curve (notebook.py)."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and "IPKernelApp" in getattr(ipython.get_ipython(), "config", {})


def clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def pace(record: Record, left: float | None = None) -> str:
    """Speed, share of the card's peak and time left, as far as they are known."""
    told = [
        ("{:,} tokens/s", record.tokens_per_second),
        ("{:.0%} MFU", record.mfu),
        ("{} left", None if left is None else clock(left)),
    ]
    return ", ".join(form.format(value) for form, value in told if value is not None)
