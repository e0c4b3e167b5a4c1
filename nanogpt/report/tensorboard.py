"""`--log tensorboard`: the numbers of metrics.jsonl in event files, for `tensorboard --logdir out`.

Two small parts of TensorBoard's own package write them: they load in a quarter of a second, want neither
TensorFlow nor torch, and have no thread in which an error could be lost.
"""

import time
from pathlib import Path
from typing import Any

from nanogpt.errors import InputError
from nanogpt.record import Record
from nanogpt.training.log import Progress

TAGS = {
    "loss": "loss/batch",
    "train_loss": "loss/training",
    "val_loss": "loss/validation",
    "learning_rate": "learning_rate",
    "tokens_per_second": "speed/tokens_per_second",
    "mfu": "speed/mfu",
}


class EventLog:
    """An event file as a follower of a run: the records up to now, then each new one."""

    def __init__(self, folder: Path, records: list[Record]) -> None:
        """Raises InputError where tensorboard is not installed."""
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise InputError(
                'for --log tensorboard, install it: pip install -c constraints.txt -e ".[tensorboard]"'
            ) from None
        self._event, self._writer = Event, RecordWriter
        now = time.time()
        self._begun = now - (records[-1].elapsed if records else 0)
        self._file = folder / f"events.out.tfevents.{now:.0f}"
        self._append(file_version="brain.Event:2")
        # This voids what an earlier start wrote, perhaps past the checkpoint that this one goes on from.
        self._append(session_log={"status": "START"})
        for record in records:
            self._write(record)

    def __call__(self, progress: Progress) -> None:
        if progress.kind != "call":
            self._write(progress.record)

    def _write(self, record: Record) -> None:
        measured = record.as_dict()
        values = [
            {"tag": tag, "simple_value": measured[key]}
            for key, tag in TAGS.items()
            if measured[key] is not None
        ]
        self._append(record.elapsed, step=record.step, summary={"value": values})

    def _append(self, elapsed: float = 0.0, **content: Any) -> None:
        event = self._event(wall_time=self._begun + elapsed, **content)
        with self._file.open("ab") as file:
            self._writer(file).write(event.SerializeToString())
