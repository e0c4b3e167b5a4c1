"""`metrics.jsonl`: what a run measured, a record a line."""

from pathlib import Path

from nanogpt.files import JsonLines, read_lines
from nanogpt.record import Evaluation, Record, record_from_dict


class Metrics:
    """The records of a run, in memory and in its file."""

    def __init__(self, file: Path, last_step: int, digest: str | None = None) -> None:
        """Keep the records up to `last_step`: the later steps are about to be measured again (files.py)."""
        self._lines = JsonLines(file, last_step, record_from_dict, digest)
        self.records = [record_from_dict(line) for line in self._lines.lines]

    def append(self, record: Record) -> None:
        """Add a record, or replace that of its step."""
        self._lines.append(record.as_dict())
        if self.records and self.records[-1].step == record.step:
            self.records.pop()
        self.records.append(record)

    def flush(self) -> None:
        """Wait until every record is on the disk."""
        self._lines.flush()

    @property
    def evaluations(self) -> list[Evaluation]:
        return evaluations(self.records)


def read_metrics(file: Path) -> list[Record]:
    """The records of a `metrics.jsonl`, without lines that are damaged."""
    return [record_from_dict(line) for line in read_lines(file, record_from_dict)[0]]


def evaluations(records: list[Record]) -> list[Evaluation]:
    """The records of the steps at which the model was evaluated."""
    return [record for record in records if isinstance(record, Evaluation)]
