"""Checkpoints of a run, the same for both backends: numpy arrays and JSON, kept by Orbax.

`checkpoints/<step>/` holds `state` (weights and both moments by canonical name) and `metadata` (metadata.py),
which has a SHA-256 of every array: Orbax itself does not notice a flipped bit. Saves run in the background
and are committed by rename, so a killed one leaves nothing that could be taken for a checkpoint.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nanogpt.errors import InputError, told_in_a_line
from nanogpt.files import free_name
from nanogpt.metadata import FORMAT, Metadata, versions
from nanogpt.state import TrainingState
from nanogpt.weights import Weights

KEEP_LATEST = 2


class Checkpoints:
    """The checkpoints in one folder. A writer also removes the remains of a killed save."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        orbax = _orbax()
        options = orbax.CheckpointManagerOptions(
            preservation_policy=self,
            lightweight_initialize=True,  # without the files of each step, one of which may be damaged
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self.directory = directory.absolute()
        self._open = partial(orbax.CheckpointManager, self.directory, options=options)
        self._manager = self._open()
        self._args = orbax.args
        self._losses = {step: self._read_loss(step) for step in self._manager.all_steps()}

    @property
    def steps(self) -> list[int]:
        """Steps that have a whole checkpoint, in order."""
        return sorted(self._manager.all_steps())

    @property
    def best_step(self) -> int | None:
        """The step of the lowest validation loss among those kept."""
        return self._best_of(self._manager.all_steps())

    def save(self, state: TrainingState, metadata: Metadata) -> None:
        """Save in the background; `state` must be nobody else's to change. A step is saved once.

        Raises InputError where this save, or the one before, can't be written, and for a state that is not
        finite.
        """
        if state.step in self.steps:
            return
        tree = {
            "weights": state.weights,
            "first_moment": state.first_moment,
            "second_moment": state.second_moment,
        }
        if not state.is_finite:
            raise InputError(f"weights or moments are not finite at step {state.step}, which is not saved")
        checksums = {part: _checksums(arrays) for part, arrays in tree.items()}
        metadata = replace(metadata, step=state.step, checksums=checksums, versions=versions())
        items = {"state": self._args.StandardSave(tree), "metadata": self._args.JsonSave(metadata.as_dict())}
        self._losses[state.step] = metadata.metrics.val_loss if metadata.metrics else None
        with told_in_a_line(f"no checkpoint can be written to {self.directory}"):
            self._manager.save(state.step, args=self._args.Composite(**items), force=True)

    def restore(self, step: int) -> tuple[TrainingState, Metadata]:
        """State and metadata of a step. Raises InputError when they are not exactly what was saved."""
        items = {"state": self._args.StandardRestore(), "metadata": self._args.JsonRestore()}
        with told_in_a_line(f"checkpoint {self.directory / str(step)} is damaged"):
            restored = self._manager.restore(step, args=self._args.Composite(**items))
            if restored.metadata["format"] != FORMAT:
                raise InputError(
                    f"checkpoint {self.directory / str(step)} has format {restored.metadata['format']}; "
                    f"this version reads format {FORMAT}"
                )
            metadata, tree = Metadata.from_dict(restored.metadata), restored.state
            if metadata.step != step:
                raise ValueError(f"it was saved as step {metadata.step}")
            for part, checksums in metadata.checksums.items():
                if _checksums(tree[part]) != checksums:
                    raise ValueError(f"a checksum of its {part} differs")
            return TrainingState(step=step, **tree), metadata

    def set_aside(self, step: int) -> Path:
        """Move a checkpoint out of the way of a new one of its step. Returns where it is now."""
        aside = free_name(self.directory.parent / f"damaged-{step}")
        (self.directory / str(step)).rename(aside)
        self._manager.close()
        self._manager = self._open()
        return aside

    def wait(self) -> None:
        """Wait until every save is on the disk. Raises InputError where one failed."""
        with told_in_a_line(f"no checkpoint can be written to {self.directory}"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax asks which checkpoints to keep: the latest ones, and the one of the lowest loss."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-KEEP_LATEST:], self._best_of(steps)}
        return [step in kept for step in steps]

    def _best_of(self, steps: Iterable[int]) -> int | None:
        losses = {step: self._losses.get(step) for step in steps}
        known = {step: loss for step, loss in losses.items() if loss is not None}
        return min(known, key=lambda step: (known[step], -step), default=None)

    def _read_loss(self, step: int) -> float | None:
        """The validation loss of a checkpoint; none for one that was not evaluated or is damaged."""
        try:
            content = (self.directory / str(step) / "metadata/metadata").read_text(encoding="utf-8")
            metrics = Metadata.from_dict(json.loads(content)).metrics
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None
        return metrics.val_loss if metrics else None


def _checksums(arrays: Weights) -> dict[str, str]:
    return {
        name: hashlib.sha256(
            f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes()
        ).hexdigest()
        for name, array in sorted(arrays.items())
    }


def _orbax() -> ModuleType:
    if "jax" not in sys.modules:
        # Orbax brings jax along. In a torch run it is to stay off the GPU and its memory.
        import jax

        jax.config.update("jax_platforms", "cpu")
    import orbax.checkpoint

    # Its warnings concern its own options, and its errors reach us as exceptions too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # The errors of its asyncio tasks do too; asyncio would repeat them when the tasks are collected.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    return orbax.checkpoint
