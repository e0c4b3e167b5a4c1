"""A loss of power at any moment leaves a run that opens, with all that had been saved.

The file operations of a run are noted (faults.py). For each point between two of them, a folder is rebuilt as
the disk may hold it after a loss there (disk.py), and opened.
"""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from nanogpt.config import Config
from nanogpt.errors import InputError
from nanogpt.randomness import random_bits
from nanogpt.state import TrainingState
from nanogpt.training.metrics import read_metrics
from nanogpt.training.run import open_run, saved_config
from tests.conftest import BACKENDS, tiny_flags
from tests.disk import Disk, Keep, drawn, names, nothing, read_tree, write_tree, zeros
from tests.faults import HERE, Faults, Operation, read_notes
from tests.forks import Forks
from tests.runs import PARTS, assert_same_run, final_state

pytest_plugins = ["tests.fault_fixtures"]
pytestmark = pytest.mark.long

CHECKPOINT = re.compile(r"run/checkpoints/(\d+)")
SEED = 5


@dataclass(frozen=True)
class Recording:
    """A run of two starts, each of which saves several times."""

    run: Path
    operations: list[Operation]
    inode: int
    """The number of the folder that holds the run."""
    states: dict[int, TrainingState]
    """The state that each checkpoint saved, by its step."""
    config: Config
    start_twice: Callable[[Path], list[Operation]]

    def points(self, operations: list[Operation]) -> Iterator[tuple[int, Disk, int]]:
        """Each number of operations, the disk after them, and the last step that counts then, or -1.

        A checkpoint counts when it has its name, and the folder with that name is flushed. One that has its
        name counts also when a start has ended, which says that all is saved.
        """
        disk, named, counted = Disk(self.inode), -1, -1
        yield 0, disk, counted
        for number, operation in enumerate(operations, 1):
            disk.apply(operation)
            if operation.kind == "rename" and (match := CHECKPOINT.fullmatch(operation.other)):
                named = int(match[1])
            if (operation.kind, operation.path) in {("flush", "run/checkpoints"), ("end", "")}:
                counted = named
            yield number, disk, counted


def train_twice(faulty: Forks, flags: list[str], folder: Path) -> list[Operation]:
    """Train 20 steps in `disk`, and then 20 more. Returns the file operations."""
    faults, stderr = Faults(folder / "disk", folder / "notes"), folder / "stderr.txt"
    for iterations in (20, 40):
        start = faulty.start([*faults.flags(), *flags, f"--max_iters={iterations}"], folder, stderr, HERE)
        assert start.wait(60) == 0, stderr.read_text()
    return read_notes(faults)


@pytest.fixture(scope="module", params=BACKENDS)
def recording(request: pytest.FixtureRequest, faulty: Forks, text_file: Path, in_memory: Path) -> Recording:
    """Record a run, and check that what was noted leads to what is on the disk."""
    flags = [*tiny_flags(text_file), f"--backend={request.param}", "--out_dir=disk/run", "--quiet"]
    folder = in_memory / f"recording of {request.param}"
    (folder / "disk").mkdir(parents=True)
    start_twice = partial(train_twice, faulty, flags)
    operations = start_twice(folder)
    run, inode = folder / "disk/run", (folder / "disk").stat().st_ino
    states, disk = {}, Disk(inode)
    for operation in operations:
        disk.apply(operation)
        match = CHECKPOINT.fullmatch(operation.other)
        if match and operation.kind == "rename":
            with TemporaryDirectory(dir=in_memory) as now:
                write_tree(disk.tree(), Path(now, "disk"))
                states[int(match[1])] = final_state(Path(now, "disk/run"))
    assert disk.tree() == read_tree(folder / "disk"), "operations were missed"
    assert sorted(states) == [0, 10, 20, 30, 40]
    config = saved_config(run)
    assert config
    return Recording(run, operations, inode, states, config, start_twice)


@dataclass(frozen=True)
class Loss:
    """A loss of power, and the folder that is there afterwards."""

    folder: Path
    point: str
    counted: int
    """The last step that counts, or -1."""


def losses(
    recording: Recording, operations: list[Operation], variant: str, in_memory: Path, share: int = 1
) -> Iterator[Loss]:
    """Lose the power at each point where that leaves another folder than before.

    With a `share` of n, these are the last point and a drawn n-th of the others.
    """
    seen = set()
    for number, disk, counted in recording.points(operations):
        if random_bits(SEED, "share", number, 1)[0] % share and number < len(operations):
            continue
        tree = disk.tree(VARIANTS[variant](number))
        if (rebuilt := (tuple(tree.items()), counted)) in seen:
            continue
        seen.add(rebuilt)
        with TemporaryDirectory(dir=in_memory, ignore_cleanup_errors=True) as folder:
            write_tree(tree, Path(folder, "disk"))
            yield Loss(Path(folder), f"after operation {number}, {operations[number - 1]}", counted)


def complaints(*arguments: Any, **more: Any) -> Iterator[str | None]:
    """Tell what each of these losses takes, or None."""
    for loss in losses(*arguments, **more):
        lost = what_is_lost(arguments[0], loss.folder / "disk/run", loss.counted)
        yield lost and f"{loss.point}: {lost}"


def what_is_lost(recording: Recording, run: Path, counted: int) -> str | None:
    """Open a run: tell what it lacks of what had been saved up to the step `counted`."""
    opening = partial(open_run, resume="auto", backend=recording.config.run.backend, say=lambda line: None)
    warnings: list[str] = []
    try:
        config = saved_config(run)
        with (
            redirect_stderr(io.StringIO()) as errors,
            opening(recording.config, run, warn=warnings.append) as opened,
        ):
            state, records = opened.state, opened.metrics.records
    except InputError as error:
        return str(error)
    if told := [*warnings, *errors.getvalue().splitlines()]:
        return str(told)
    if not opened.resumed:
        return None if counted < 0 else f"step {counted}, which was saved"
    if state.step < counted:
        return f"step {counted}, which was saved: the newest is {state.step}"
    for part in PARTS:
        arrays, expected = getattr(state, part), getattr(recording.states[state.step], part)
        if any(not np.array_equal(arrays[name], expected[name]) for name in expected):
            return f"the {part} of step {state.step}"
    if not config or config.model != recording.config.model:
        return "the configuration"
    if records != [
        record for record in read_metrics(recording.run / "metrics.jsonl") if record.step <= state.step
    ]:
        return f"records up to step {state.step}"
    return None


def fixed(keep: Keep) -> Callable[[int], Keep]:
    return lambda point: keep


VARIANTS: dict[str, Callable[[int], Keep]] = {
    "nothing": fixed(nothing),
    "names": fixed(names),
    "zeros": fixed(zeros),
    **{f"drawn {draw}": partial(drawn, SEED + draw) for draw in range(4)},
}
"""Models of the disk: each keeps something else after a loss (disk.py)."""


@pytest.mark.parametrize("recording", ["torch"], indirect=True)
@pytest.mark.parametrize("variant", ["nothing", "names", "zeros", "drawn 0"])
def test_a_loss_of_power_loses_nothing_saved(variant: str, recording: Recording, in_memory: Path) -> None:
    assert not any(told := list(complaints(recording, recording.operations, variant, in_memory, share=40))), (
        told
    )


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_loss_of_power_at_any_point_loses_nothing_saved(
    variant: str, recording: Recording, in_memory: Path
) -> None:
    told = list(complaints(recording, recording.operations, variant, in_memory))
    lost = list(filter(None, told))
    points = len(recording.operations) + 1
    print(f"{variant}: {points} points, {len(told)} different folders, {len(lost)} with a loss")
    assert not lost


@pytest.mark.parametrize("recording", ["torch"], indirect=True)
def test_a_run_goes_on_after_a_loss_of_power(recording: Recording, in_memory: Path) -> None:
    go_on(recording, "names", in_memory, share=600)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["names", "zeros", "drawn 0"])
def test_a_run_goes_on_after_a_loss_of_power_at_many_points(
    variant: str, recording: Recording, in_memory: Path
) -> None:
    print(f"{variant}: the run went on after {go_on(recording, variant, in_memory, share=20)} losses")


def go_on(recording: Recording, variant: str, in_memory: Path, share: int) -> int:
    """Make both starts again after losses: the run ends as without. Returns how many there were."""
    number = 0
    for loss in losses(recording, recording.operations, variant, in_memory, share):
        print(loss.point)
        recording.start_twice(loss.folder)
        assert_same_run(loss.folder / "disk/run", recording.run)
        number += 1
    return number


@pytest.mark.parametrize("recording", ["torch"], indirect=True)
@pytest.mark.parametrize(
    ("variant", "flushed"),
    [
        pytest.param("names", r".*/metadata[^/]*/metadata", id="the metadata of a checkpoint"),
        pytest.param("zeros", r".*/(d/\w+|manifest\.ocdbt.*)", id="its arrays"),
        pytest.param("nothing", r"run/checkpoints/.*(tmp|metadata|state|process_0|/d)", id="its folders"),
        pytest.param("nothing", r"run/checkpoints", id="the folder of checkpoints"),
        pytest.param("nothing", r"run", id="the folder of the run"),
        pytest.param("nothing", r"", id="the folder of all runs"),
        pytest.param("names", r"run/\.config\.json\.\d+", id="the settings"),
        pytest.param("names", r"run/metrics\.jsonl", id="the measurements"),
    ],
)
def test_each_flush_is_needed(variant: str, flushed: str, recording: Recording, in_memory: Path) -> None:
    operations = [
        operation
        for operation in recording.operations
        if operation.kind != "flush" or not re.fullmatch(flushed, operation.path)
    ]
    assert any(complaints(recording, operations, variant, in_memory, share=4))


@pytest.mark.parametrize("recording", ["torch"], indirect=True)
def test_the_rename_is_needed(recording: Recording, in_memory: Path) -> None:
    """A run writes each checkpoint in its place."""
    part = re.compile(r"(checkpoints/\d+)\.orbax-checkpoint-tmp")
    placed = (
        replace(operation, path=part.sub(r"\1", operation.path), other=part.sub(r"\1", operation.other))
        for operation in recording.operations
    )
    operations = [operation for operation in placed if operation.path != operation.other]
    assert any(complaints(recording, operations, "names", in_memory, share=4))
