"""Two processes never train in one folder."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest

from nanogpt import lock
from nanogpt.errors import InputError
from nanogpt.lock import LOCK, locked
from tests.conftest import ROOT, Train

HOLDER = """
import sys, time
from pathlib import Path
from nanogpt.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of a folder, until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder.absolute()],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_second_process_exits_and_names_the_first(
    resume: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run", "--backend=torch") == 0
    with holder(tmp_path / "run") as first:
        before = everything_in(tmp_path / "run")
        capsys.readouterr()
        begun = time.monotonic()
        assert train("run", f"--resume={resume}", "--max_iters=30") == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert f"run is in use by process {first.pid} on " in told
        assert time.monotonic() - begun < 30
        assert everything_in(tmp_path / "run") == before
        assert [path.name for path in tmp_path.glob("*run*")] == ["run"]
    assert train("run", "--max_iters=30") == 0


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as first:
        with pytest.raises(InputError, match=f"in use by process {first.pid}"), locked(tmp_path / "run"):
            pass
        first.kill()
    assert (tmp_path / "run" / LOCK).exists()
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / LOCK).exists()


def test_the_folder_of_a_failed_start_is_not_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to train on"), locked(tmp_path / "new/deep/run"):
        raise InputError("nothing to train on")
    assert not (tmp_path / "new").exists()
    with locked(tmp_path / "new/run"):
        (tmp_path / "new/run/config.json").touch()
    assert [path.name for path in (tmp_path / "new/run").iterdir()] == ["config.json"]


def test_a_lock_follows_a_folder_that_is_moved_aside(train: Train, tmp_path: Path) -> None:
    """A new run has the lock of the new folder, and leaves none in the old one."""
    assert train("run", "--backend=torch") == 0
    assert train("run", "--resume=never", "--backend=torch", "--max_iters=10") == 0
    assert not list(tmp_path.glob(f"*/{LOCK}"))
    assert (tmp_path / "run.old/checkpoints/20").is_dir()


def test_a_file_system_without_locks_is_told_of(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def acquire(self: filelock.FileLock) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.FileLock, "acquire", acquire)
    assert train("run", "--backend=torch", "--max_iters=4", "--quiet") == 0
    (told,) = capsys.readouterr().err.splitlines()
    assert told == "run can't be locked (Operation not supported): let one process alone write to it"


def test_without_a_lock_a_second_process_would_go_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above see a product that takes no lock."""
    with holder(tmp_path / "run"):
        monkeypatch.setattr(lock.FileLock, "acquire", lambda self: None)
        with pytest.raises(pytest.fail.Exception), pytest.raises(InputError), locked(tmp_path / "run"):
            pass
