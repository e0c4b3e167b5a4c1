"""The measurements of one step: a line of `metrics.jsonl`, and the evaluation that a checkpoint keeps."""

import json
from dataclasses import asdict, dataclass
from typing import Any

# Every line has all of them, in this order; between evaluations the last of them are null.
KEYS = (
    *("step", "loss", "learning_rate", "tokens_per_second", "mfu"),
    *("train_loss", "val_loss", "elapsed", "sample"),
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A step. Losses are means in nats a token."""

    step: int
    loss: float | None = None
    """The loss of the step's batch; none before the first step of a start."""
    learning_rate: float | None = None
    """The rate of the step's update."""
    tokens_per_second: int | None = None
    """By the pace of the last calls (training/pace.py): evaluations and saves are left out."""
    mfu: float | None = None
    """Model FLOPs utilization: the share of the card's peak; none for a card that is not known."""
    elapsed: float = 0.0
    """Seconds of the run so far."""

    def as_dict(self) -> dict[str, Any]:
        """The line's JSON object."""
        values = asdict(self)
        return {key: values.get(key) for key in KEYS}

    def as_json(self) -> str:
        return json.dumps(self.as_dict())


@dataclass(frozen=True, kw_only=True)
class Evaluation(Record):
    """A step at which the model was evaluated."""

    train_loss: float
    """Over a fixed sample of the training split."""
    val_loss: float
    """Over the validation split."""
    sample: str
    """A short text that the model wrote."""


def record_from_dict(values: dict[str, Any]) -> Record:
    """The inverse of `as_dict`. Raises TypeError where a value is missing or of another type."""
    given = {key: value for key, value in values.items() if key in KEYS and value is not None}
    for key, value in given.items():
        types = {"step": (int,), "sample": (str,)}.get(key, (int, float))
        if type(value) not in types:
            raise TypeError(f"{key} is {value!r}")
    return Evaluation(**given) if "val_loss" in given else Record(**given)
