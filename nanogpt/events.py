"""`--log tensorboard`: the numbers of metrics.jsonl in event files, for `tensorboard --logdir out`.

Written with two small parts of TensorBoard's own package, which looking at them needs anyway: they load in a
quarter of a second, want neither TensorFlow nor torch, and have no thread in which an error could be lost.
"""

import time
from pathlib import Path
from typing import Any

from nanogpt.errors import InputError
from nanogpt.metrics import Record

TAGS = {
    "loss": "loss/batch",
    "train_loss": "loss/training",
    "val_loss": "loss/validation",
    "learning_rate": "learning_rate",
    "tokens_per_second": "speed/tokens_per_second",
    "mfu": "speed/mfu",
}


class EventLog:
    """An event file of a run: what was measured up to now, then each record that it is called with."""

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
        self._begun = now - (records[-1]["elapsed"] if records else 0)
        self._file = folder / f"events.out.tfevents.{now:.0f}"
        self._append(file_version="brain.Event:2")
        # Whatever an earlier start wrote, perhaps past the checkpoint that this one goes on from, is void.
        self._append(session_log={"status": "START"})
        for record in records:
            self(record)

    def __call__(self, record: Record) -> None:
        values = [
            {"tag": tag, "simple_value": record[key]} for key, tag in TAGS.items() if record[key] is not None
        ]
        self._append(record["elapsed"], step=record["step"], summary={"value": values})

    def _append(self, elapsed: float = 0.0, **content: Any) -> None:
        event = self._event(wall_time=self._begun + elapsed, **content)
        with self._file.open("ab") as file:
            self._writer(file).write(event.SerializeToString())
