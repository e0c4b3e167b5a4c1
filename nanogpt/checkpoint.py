"""Checkpoints of a run, the same for both backends: numpy arrays and JSON, kept by Orbax.

`checkpoints/<step>/` holds `state` (weights and both moments by canonical name) and `metadata` (metadata.py),
which has a SHA-256 of every array: Orbax itself does not notice a flipped bit. Saves run in the background
and are committed by rename, so a killed one leaves nothing that could be taken for a checkpoint.
"""

import hashlib
import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

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
        policies = orbax.checkpoint_managers
        best = policies.BestN(
            get_metric_fn=lambda metrics: -metrics["val_loss"],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        options = orbax.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(KEEP_LATEST), best]),
            best_fn=lambda metrics: metrics["val_loss"],
            best_mode="min",
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self.directory = directory.absolute()
        self._manager = orbax.CheckpointManager(self.directory, options=options)
        self._args = orbax.args

    @property
    def steps(self) -> list[int]:
        """Steps that have a whole checkpoint, in order."""
        return sorted(self._manager.all_steps())

    @property
    def best_step(self) -> int | None:
        """The step of the lowest validation loss among those kept."""
        return self._manager.best_step()

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
        metrics = {"val_loss": metadata.metrics.val_loss} if metadata.metrics else None
        with told_in_a_line(f"no checkpoint can be written to {self.directory}"):
            self._manager.save(state.step, args=self._args.Composite(**items), metrics=metrics, force=True)

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
        self._manager.reload()
        return aside

    def wait(self) -> None:
        """Wait until every save is on the disk. Raises InputError where one failed."""
        with told_in_a_line(f"no checkpoint can be written to {self.directory}"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


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
