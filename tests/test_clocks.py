"""A clock that is a day wrong, or jumps, changes neither a run nor what is kept of it."""

import json
import os
import shutil
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from nanogpt.checkpoint import Checkpoints
from nanogpt.cli.door import newest_run
from nanogpt.cli.sample import sample_main
from tests.conftest import BACKENDS, Finished, Train, tiny_flags
from tests.faults import HERE, WRITING, Faults, read_notes
from tests.forks import Forks
from tests.runs import assert_same_run, json_lines

pytest_plugins = ["tests.fault_fixtures"]

DAY = 86_400
IN_A_SAVE = 90
"""The number of an operation of the start below, after the save has begun."""
WAIT_SECONDS = 30
"""A start takes two seconds."""


@dataclass(frozen=True)
class Start:
    """The last start of a run, which goes on from step 10 to step 20."""

    forks: Forks
    flags: list[str]
    whole: Path
    """The same run, left alone."""

    def by_a_clock(self, seconds: int, moved_at: int, folder: Path) -> int:
        """Check that the run is the same by a clock that is wrong by so many seconds from an operation on.

        Where a save waits until a clock that went back has caught up, it kills the start and begins another.
        Returns how many operations there were, or `moved_at` + 1 after a kill.
        """
        shutil.rmtree(folder, ignore_errors=True)
        run = shutil.copytree(self.whole, folder / "disk/run")
        shutil.rmtree(run / "checkpoints/20")
        faults = Faults(run.parent, folder / "notes", WRITING, seconds=seconds, moved_at=moved_at)
        flags, stderr = [*self.flags, "--out_dir=disk/run"], folder / "stderr.txt"
        fork = self.forks.start([*faults.flags(), *flags], folder, stderr, HERE)
        is_killed = False
        try:
            code, operations = fork.wait(WAIT_SECONDS), read_notes(faults)[-1].size
        except TimeoutError:
            is_killed = True
            assert seconds < 0
            fork.kill()
            fork.wait(10)
            code, operations = self.forks.start(flags, folder, stderr).wait(60), moved_at + 1
        assert (code, stderr.read_text()) == (0, "")
        assert_same_run(run, self.whole)
        elapsed = [record["elapsed"] for record in json_lines(run / "metrics.jsonl")]
        assert elapsed == sorted(elapsed)
        assert elapsed[0] >= 0
        assert Checkpoints(run / "checkpoints", read_only=True).steps == [10, 20]
        if not moved_at and not is_killed:
            save = json.loads((run / "checkpoints/20/_CHECKPOINT_METADATA").read_bytes())
            assert abs(save["init_timestamp_nsecs"] / 1e9 - time.time() - seconds) < DAY / 24
        return operations


@pytest.fixture
def start(request: pytest.FixtureRequest, finished: Finished, faulty: Forks, text_file: Path) -> Start:
    return Start(
        faulty, [*tiny_flags(text_file), f"--backend={request.param}", "--quiet"], finished(request.param)
    )


@pytest.mark.long
@pytest.mark.parametrize("start", ["torch"], indirect=True)
@pytest.mark.parametrize(
    ("moved_at", "seconds"),
    [(0, -DAY), (IN_A_SAVE, DAY)],
    ids=["back, between starts", "forward, in a save"],
)
def test_a_run_is_the_same_by_a_clock_that_is_moved(
    seconds: int, moved_at: int, start: Start, in_memory: Path
) -> None:
    assert start.by_a_clock(seconds, moved_at, in_memory / "clock") > moved_at


@pytest.mark.slow
@pytest.mark.parametrize("start", BACKENDS, indirect=True)
@pytest.mark.parametrize("seconds", [DAY, -DAY], ids=["forward", "back"])
def test_a_run_is_the_same_by_a_clock_that_is_moved_at_any_moment(
    seconds: int, start: Start, in_memory: Path
) -> None:
    """Any moment of the last start is one between two operations."""
    for moved_at in count():
        if start.by_a_clock(seconds, moved_at, in_memory / "clock") <= moved_at:
            break
    print(f"the clock was moved by {seconds} s at {moved_at} moments")


def test_the_newest_checkpoint_is_that_of_the_last_step(
    finished_run: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their times, its files are two days older."""
    run = shutil.copytree(finished_run, "run")
    for step, seconds in ((10, DAY), (20, -DAY)):
        folder = Path(run, f"checkpoints/{step}")
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (time.time() + seconds,) * 2)
    assert sample_main(["--out_dir=run", "--max_tokens=1"]) == 0
    assert "step 20," in capsys.readouterr().err
    assert train("run", "--backend=torch", "--max_iters=40") == 0
    assert "from step 20 of 40" in capsys.readouterr().out
    assert Checkpoints(Path("run/checkpoints"), read_only=True).steps[-2:] == [30, 40]


def test_the_newest_run_may_be_of_tomorrow_or_of_before_1970(tmp_path: Path) -> None:
    times = {"today": time.time(), "tomorrow": time.time() + DAY, "long_ago": -DAY}
    for name, seconds in times.items():
        (tmp_path / name / "checkpoints/10").mkdir(parents=True)
        os.utime(tmp_path / name / "checkpoints", (seconds, seconds))
    for name in ("tomorrow", "today", "long_ago"):
        assert newest_run(tmp_path) == tmp_path / name
        shutil.rmtree(tmp_path / name)
