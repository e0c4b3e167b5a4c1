"""`metrics.jsonl`: what a run measured, a record a line."""

from pathlib import Path

from nanogpt.files import JsonLines, read_lines
from nanogpt.record import Evaluation, Record, record_from_dict


class Metrics:
    """The records of a run, in memory and in its file."""

    def __init__(self, file: Path, last_step: int) -> None:
        """Keep the records up to `last_step`: the later steps are about to be measured again."""
        self._lines = JsonLines(file, last_step, record_from_dict)
        self.records = [record_from_dict(line) for line in self._lines.lines]

    def append(self, record: Record) -> None:
        self.records.append(record)
        self._lines.append(record.as_dict())

    @property
    def evaluations(self) -> list[Evaluation]:
        return evaluations(self.records)


def read_metrics(file: Path) -> list[Record]:
    """The records of a `metrics.jsonl`, without lines that are damaged."""
    return [record_from_dict(line) for line in read_lines(file, record_from_dict)[0]]


def evaluations(records: list[Record]) -> list[Evaluation]:
    """The records of the steps at which the model was evaluated."""
    return [record for record in records if isinstance(record, Evaluation)]
