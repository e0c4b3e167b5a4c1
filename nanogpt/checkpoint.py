"""Checkpoints of a run, the same for both backends: numpy arrays and JSON, kept by Orbax.

`checkpoints/<step>/` holds `state` (weights and moments by canonical name) and `metadata` (metadata.py),
which has a SHA-256 of every array: Orbax itself does not notice a flipped bit. Saves run in the background
and are committed by rename, so a killed one leaves nothing that could be taken for a checkpoint.
"""

import asyncio
import hashlib
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nanogpt.errors import InputError, told_in_a_line
from nanogpt.files import commit, flush, free_name, make_folder, read_small, write_atomically
from nanogpt.memory import require_memory_for
from nanogpt.metadata import READ_FORMATS, Metadata, versions
from nanogpt.record import Evaluation
from nanogpt.state import TrainingState
from nanogpt.weights import Weights, count_parameters, weight_shapes

KEEP_LATEST = 2
PARTS = ("weights", "first_moment", "second_moment")
METADATA = "metadata/metadata"  # the file below a step


class NotFiniteError(InputError):
    """A state that must not be saved: nothing could go on from it."""


class Checkpoints:
    """The checkpoints in one folder. A writer also removes the remains of a killed save."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        orbax = _orbax()
        self.directory = directory.absolute()
        self._args = orbax.args
        self._manager = None
        if not read_only:
            make_folder(self.directory)
            # Orbax would do it in a thread, which goes on when the run is closed.
            for remains in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(remains, ignore_errors=True)
            options = orbax.CheckpointManagerOptions(
                preservation_policy=self,
                lightweight_initialize=True,  # without the files of each step, one of which may be damaged
                create=False,
                multiprocessing_options=_alone("writer"),
                temporary_path_class=_flushed_path(),
                async_options=orbax.options.AsyncOptions(
                    # Else a folder that can't be made keeps threads waiting, and the process with them.
                    create_directories_asynchronously=False,
                    timeout_secs=2**31,  # by a clock that may be put forward while a save runs
                ),
            )
            self._manager = orbax.CheckpointManager(self.directory, options=options)
        self._losses = {step: self._read_loss(step) for step in self.steps}

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        names = (path.name for path in self.directory.iterdir())
        return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))

    @property
    def best_step(self) -> int | None:
        """The step of the lowest validation loss among those kept."""
        return self._best_of(self.steps)

    def save(self, state: TrainingState, metadata: Metadata) -> None:
        """Save in the background; `state` must be nobody else's to change.

        A step is saved once: to one that is there, at most its evaluation is added. Raises NotFiniteError for
        a state that is not finite, and InputError where this save, or the one before, can't be written.
        """
        if not state.is_finite:
            raise NotFiniteError(f"weights or moments are not finite at step {state.step}, which isn't saved")
        if state.step in self._losses:
            if metadata.metrics and self._losses[state.step] is None:
                self._add_evaluation(state.step, metadata.metrics, metadata.digests)
            return
        tree = {part: getattr(state, part) for part in PARTS}
        checksums = {part: _checksums(arrays) for part, arrays in tree.items()}
        metadata = replace(metadata, step=state.step, checksums=checksums, versions=versions())
        items = {"state": self._args.StandardSave(tree), "metadata": self._args.JsonSave(metadata.as_dict())}
        assert self._manager is not None, "these checkpoints are open for reading"
        with told_in_a_line(f"no checkpoint can be written to {self.directory}"):
            self._manager.save(state.step, args=self._args.Composite(**items), force=True)
        self._losses[state.step] = metadata.metrics.val_loss if metadata.metrics else None

    def restore(self, step: int) -> tuple[TrainingState, Metadata]:
        """State and metadata of a step. Raises InputError when they are not exactly what was saved."""
        folder = self.directory / str(step)
        with told_in_a_line(f"checkpoint {folder} is damaged"):
            metadata = self._metadata(step)
            self._compare_sizes(folder, metadata)
            tree = _reader().restore(folder / "state")
            for part in PARTS:
                if _checksums(tree[part]) != metadata.checksums[part]:
                    raise ValueError(f"a checksum of its {part} differs")
            return TrainingState(step=step, **{part: tree[part] for part in PARTS}), metadata

    def wait(self) -> None:
        """Wait until every save is on the disk. Raises InputError where one failed."""
        if self._manager:
            with told_in_a_line(f"no checkpoint can be written to {self.directory}"):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for every save, and end the threads that write them."""
        if self._manager:
            with told_in_a_line(f"no checkpoint can be written to {self.directory}"):
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
            metrics = self._metadata(step).metrics
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None
        return metrics.val_loss if metrics else None

    def _metadata(self, step: int) -> Metadata:
        """The metadata of a step. Raises an exception where it is not what was saved."""
        folder = self.directory / str(step)
        values = json.loads(read_small(folder / METADATA))
        if values["format"] not in READ_FORMATS:
            raise InputError(
                f"checkpoint {folder} has format {values['format']}; this version reads formats "
                + " and ".join(map(str, READ_FORMATS))
            )
        try:
            metadata = Metadata.from_dict(values)
        except InputError as error:  # of its configuration, which is not the user's
            raise ValueError(str(error)) from error
        if metadata.step != step:
            raise ValueError(f"it was saved as step {metadata.step}")
        return metadata

    def _add_evaluation(self, step: int, metrics: Evaluation, digests: dict[str, str]) -> None:
        """Complete a checkpoint that was saved in a hurry, before its evaluation."""
        self.wait()
        metadata = replace(self._metadata(step), metrics=metrics, digests=digests)
        write_atomically(self.directory / str(step) / METADATA, json.dumps(metadata.as_dict()))
        self._losses[step] = metrics.val_loss

    def _compare_sizes(self, folder: Path, metadata: Metadata) -> None:
        """Raise ValueError where files claim more than there is, before memory is spent on their claims."""
        files = [file for file in folder.rglob("*") if not file.is_dir()]
        if special := [file for file in files if not file.is_file()]:
            raise ValueError(f"{special[0].relative_to(folder)} is no plain file")
        size, model = sum(file.stat().st_size for file in files), metadata.config.model
        if size < count_parameters(model):  # random weights can't be compressed to a quarter
            raise ValueError(f"{size:,} bytes are too few for the weights of its model")
        require_memory_for(model)
        stored = _stored_arrays(folder)
        for part in PARTS:
            shapes = {name: array.shape for name, array in stored[part].items()}
            expected = weight_shapes(model)
            if part == "second_moment":  # which Muon's weights lack
                expected = {name: shape for name, shape in expected.items() if name in shapes}
            if shapes != expected:
                raise ValueError(f"its {part} are not those of its model")
            for array in stored[part].values():
                if any(np.greater(array.storage.chunk_shape, array.shape)):
                    raise ValueError(f"a piece of {array.name} claims to be larger than the whole")


def set_aside(directory: Path, step: int) -> Path:
    """Move a checkpoint out of the way of a new one of its step. Returns where it is now."""
    aside = free_name(directory.parent / f"damaged-{step}")
    (directory / str(step)).rename(aside)
    flush(aside.parent)
    flush(directory)
    return aside


def _stored_arrays(folder: Path) -> dict[str, dict[str, Any]]:
    """Name, shape and pieces of every array of a step, by part. Raises an exception where one is missing."""
    return dict(_reader().metadata(folder / "state").item_metadata)


def _reader() -> Any:
    """Orbax's reader of one item, which needs no manager."""
    options = _alone("reader")
    handler = _orbax().StandardCheckpointHandler(multiprocessing_options=options)
    return _orbax().Checkpointer(handler, multiprocessing_options=options)


def _alone(name: str) -> Any:
    """Options by which Orbax asks no other process that trains the model (processes.py) to take part."""
    return _orbax().options.MultiprocessingOptions(0, active_processes={0}, barrier_sync_key_prefix=name)


def _checksums(arrays: Weights) -> dict[str, str]:
    return {
        name: hashlib.sha256(
            f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes()
        ).hexdigest()
        for name, array in sorted(arrays.items())
    }


@cache
def _orbax() -> ModuleType:
    if "jax" not in sys.modules:
        # Orbax brings jax along. In a torch run it is to stay off the GPU and its memory.
        import jax

        jax.config.update("jax_platforms", "cpu")
    import orbax.checkpoint

    # Its warnings concern its own options, and its errors reach us as exceptions too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # The errors of its asyncio tasks do too; without these lines they are told again when it drops the tasks.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = partial(_unless_collected, sys.unraisablehook)
    return orbax.checkpoint


@cache
def _flushed_path() -> type:
    """The folder that Orbax fills for a step, and then renames: its own flushes nothing but the arrays."""

    class FlushedPath(_orbax().path.atomicity.AtomicRenameTemporaryPath):  # type: ignore[misc]
        async def finalize(self) -> None:
            if store := self._checkpoint_metadata_store:  # whose thread may still write there
                await asyncio.to_thread(store.wait_until_finished)
            await asyncio.to_thread(self._commit, Path(self.get()), Path(self.get_final()))

        @staticmethod
        def _commit(part: Path, final: Path) -> None:
            if final.name.isdecimal() and set(_stored_arrays(part)) != set(PARTS):
                # Orbax lists its files by glob, which takes a folder that can't be read for an empty one.
                raise OSError(f"{part} lacks arrays that were written to it")
            commit(part, final)

    return FlushedPath


def _unless_collected(tell: Callable[[Any], object], unraisable: Any) -> None:
    """Tell of an exception that nobody can catch, unless it ends a task that an error cut short."""
    if str(unraisable.exc_value) != "Event loop is closed":
        tell(unraisable)
