"""The metadata of a checkpoint: everything but the arrays that is needed to go on, or to read it alone."""

import hashlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from nanogpt.config import Config
from nanogpt.record import Evaluation, record_from_dict

FORMAT = 2
READ_FORMATS = (1, 2)
"""In format 1 every weight has both moments; Muon came with format 2."""
SpecialTokens = dict[str, int | list[int]]
"""Ids under the names that transformers gives them: bos_token_id, eos_token_id and pad_token_id."""


@dataclass(frozen=True)
class Metadata:
    """A checkpoint's own description. `Checkpoints.save` fills in the last three fields."""

    config: Config
    vocabulary: str | None
    """The characters of a CharTokenizer; none where the run's folder holds a tokenizer.json."""
    special_tokens: SpecialTokens | None = None
    """None in older checkpoints, where the tokenizer.json tells."""
    data: dict[str, str | int] | None = None
    """The fingerprint of the text (text/corpus.py); none for an imported model."""
    backend: str | None = None
    """The backend that trained it last; none for an imported model."""
    elapsed: float = 0.0
    """Seconds of training."""
    metrics: Evaluation | None = None
    """The evaluation at this step, if there was one."""
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 of files of the run's folder, by name: its measurements and its tokenizer.json."""
    step: int = 0
    checksums: dict[str, dict[str, str]] = field(default_factory=dict)
    """SHA-256 of every array by name, for weights and both moments."""
    versions: dict[str, str] = field(default_factory=dict)
    """The packages that decide what a run computes."""

    def as_dict(self) -> dict[str, Any]:
        """The JSON object that is saved."""
        metrics = self.metrics.as_dict() if self.metrics else None
        values = asdict(self) | {"metrics": metrics, "format": FORMAT}
        return values | {"sha256": _sha256(values)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Metadata":
        """The inverse of `as_dict`. Raises an exception where a value is missing or wrong."""
        values = dict(values)
        # Older checkpoints have none.
        if "sha256" in values and values.pop("sha256") != _sha256(values):
            raise ValueError("the checksum of its metadata differs")
        del values["format"]
        metrics = record_from_dict(values["metrics"]) if values["metrics"] else None
        return cls(**values | {"config": Config.from_dict(values["config"]), "metrics": metrics})


def _sha256(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """The versions of the packages that decide what a run computes."""
    names = ("jax", "flax", "optax", "orbax-checkpoint", "torch", "numpy")
    return {name: importlib.metadata.version(name) for name in names}
