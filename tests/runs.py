"""Cut a run, and compare one run with another."""

import importlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanogpt.checkpoint import Checkpoints
from nanogpt.cli import signals
from nanogpt.record import Evaluation, Record
from nanogpt.state import TrainingState
from tests.conftest import assert_same_weights

PARTS = ("weights", "first_moment", "second_moment")
REPORTS = ("samples.md", "loss.svg", "report.md")
TIMES = {"tokens_per_second", "mfu", "elapsed"}


def record(step: int, loss: float | None, val_loss: float | None = None, rate: float | None = 1e-3) -> Record:
    """Make up a record: it is an evaluation where there is a `val_loss`."""
    known = {"step": step, "loss": loss, "learning_rate": rate, "tokens_per_second": 9_000}
    if val_loss is None:
        return Record(**known)
    return Evaluation(**known, train_loss=val_loss, val_loss=val_loss, sample="")


def final_state(out_dir: Path) -> TrainingState:
    checkpoints = Checkpoints(out_dir / "checkpoints", read_only=True)
    return checkpoints.restore(checkpoints.steps[-1])[0]


def assert_same_run(actual: Path, expected: Path) -> None:
    """Weights and moments are the same to the last bit, and so are measurements and reports but for time."""
    one, other = final_state(actual), final_state(expected)
    assert one.step == other.step
    for part in PARTS:
        assert_same_weights(getattr(one, part), getattr(other, part))
    assert timeless(actual) == timeless(expected)


def timeless(run: Path) -> list[Any]:
    """Read what a run measured and what its folder shows a person, without the times."""
    records = json_lines(run / "metrics.jsonl")
    shown = [(run / name).read_text(encoding="utf-8") for name in REPORTS]
    shown[-1] = re.sub(r"\d+:\d\d:\d\d, [\d,]+ tokens/s", "", shown[-1])
    return [{key: record[key] for key in record.keys() - TIMES} for record in records] + shown


def losses(records: list[Record]) -> dict[tuple[int, str], float]:
    """Take every loss that was measured, by its step and name."""
    return {
        (record.step, key): value
        for record in records
        for key, value in record.as_dict().items()
        if key.endswith("loss") and value is not None
    }


def largest_difference(actual: dict[tuple[int, str], float], expected: dict[tuple[int, str], float]) -> float:
    assert actual.keys() == expected.keys()
    return max(abs(actual[key] - expected[key]) for key in expected)


@contextmanager
def interrupted_after(
    calls: int, number: int = signal.SIGINT, function: str = "loop.step_inputs"
) -> Iterator[None]:
    """Send this process a signal at call number `calls` of a function of training: one that begins steps."""
    module, _, name = function.partition(".")
    room = importlib.import_module(f"nanogpt.training.{module}")
    original, made = getattr(room, name), iter(range(1, 1000))

    def counted(*arguments: Any) -> Any:
        if next(made) == calls:
            os.kill(os.getpid(), number)
            while not signals._received:
                time.sleep(0.001)
        return original(*arguments)

    before = {number: signal.getsignal(number) for number in signals.NUMBERS}
    signals.obey_signals()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(room, name, counted)
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(signal.set_wakeup_fd(-1))


def json_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
