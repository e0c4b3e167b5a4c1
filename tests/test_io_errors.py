"""An error of the disk at any file operation ends a run in a line, and takes nothing that had been saved.

Each case starts a run with one operation that fails, or all from that one on (faults.py), and then without.
"""

import errno
import glob
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

import pytest

from nanogpt.checkpoint import Checkpoints
from nanogpt.errors import InputError
from nanogpt.randomness import random_bits
from nanogpt.report.markdown import write_report
from tests.conftest import Train, tiny_flags
from tests.disk import read_tree
from tests.faults import HERE, READING, WRITING, Faults, read_notes
from tests.forks import Forks
from tests.runs import assert_same_run

pytest_plugins = ["tests.fault_fixtures"]

SEED = 8
# The rate stays where it is: no step asks how many follow.
CONSTANT = ["--learning_rate=0.02", "--min_lr=0.02"]
LAST = 2**31 - 1
SECONDS = 30
"""A start may take so long to end; it needs one or two."""
WARNINGS = ("can't be written (", "; moved to ")
"""Parts of the lines that tell of what a run goes on without."""


@dataclass(frozen=True)
class Scenario:
    """A run before its last start, and the run that was left alone."""

    forks: Forks
    flags: list[str]
    begun: Path | None
    """None where that start begins the run."""
    whole: Path

    def start(self, folder: Path, faults: Faults | None = None) -> tuple[int, list[str]]:
        """The exit code of a start in a folder, and its lines on standard error."""
        run, stderr = [*self.flags, "--out_dir=disk/run"], folder / "stderr.txt"
        if faults:
            process = self.forks.start([*faults.flags(), *run], folder, stderr, HERE)
        else:
            process = self.forks.start(run, folder, stderr)
        try:
            code = process.wait(SECONDS)
        except TimeoutError:
            process.kill(signal.SIGABRT)  # which tells where it is
            process.wait(SECONDS)
            raise AssertionError(f"it hangs\n{stderr.read_text()}") from None
        return code, stderr.read_text().splitlines()

    def case(self, folder: Path, kinds: int, error: int, first: int, last: int) -> str | None:
        """Start with faults, and check what is left. Returns what failed, or None where nothing did."""
        run = folder.resolve() / "disk/run"
        shutil.rmtree(folder, ignore_errors=True)
        run.parent.mkdir(parents=True)
        if self.begun:
            shutil.copytree(self.begun, run)
        faults = Faults(run.parent, run.parents[1] / "notes", kinds, first, last, error)
        code, told = self.start(folder, faults)
        failed = next((note for note in read_notes(faults) if note.kind == "fail"), None)
        context = f"{failed} {first} ({os.strerror(error)}): exit code {code}, {told}"
        *warnings, end = told if code else [*told, "error: "]
        assert code in (0, 1, 2), context
        assert end.startswith("error: "), context
        assert all(any(part in line for part in WARNINGS) for line in warnings), context
        if self.begun:
            kept = [read_tree(run / name) for name in ("checkpoints/10", "damaged-10")]
            assert read_tree(self.begun / "checkpoints/10") in kept, context
        if code:
            assert self.start(folder) == (0, []), context
        elif told:  # it went on without a report
            write_report(run)
        try:
            assert_same_run(run, self.whole)
        except (AssertionError, InputError) as difference:
            raise AssertionError(f"{context}: another run: {difference}") from None
        return failed and str(failed)


@pytest.fixture(scope="module")
def scenario(faulty: Forks, text_file: Path, in_memory: Path) -> Callable[..., Scenario]:
    @cache
    def make(backend: str, name: str) -> Scenario:
        """`anew`: a run of 10 steps. `resume`: it goes on to step 20."""
        flags = [*tiny_flags(text_file), *CONSTANT, f"--backend={backend}", "--quiet"]
        folder = in_memory / f"{backend} {name}"
        (folder / "disk").mkdir(parents=True)
        whole = folder / "disk/run"
        for step in (10,) if name == "anew" else (10, 20):
            begun = shutil.copytree(whole, folder / "begun") if whole.exists() else None
            scenario = Scenario(faulty, [*flags, f"--max_iters={step}"], begun, whole)
            assert scenario.start(folder) == (0, [])
        return scenario

    return make


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "kinds", "error", "lasting"),
    [
        ("resume", WRITING, errno.ENOSPC, True),
        ("resume", READING, errno.EIO, False),
    ],
)
def test_a_run_ends_in_a_line_after_an_error_of_the_disk(
    name: str,
    kinds: int,
    error: int,
    lasting: bool,
    scenario: Callable[..., Scenario],
    in_memory: Path,
) -> None:
    first = 1 + int(random_bits(SEED, f"{name} {kinds} {error}", 0, 1)[0] % 100)
    assert scenario("torch", name).case(in_memory / "case", kinds, error, first, LAST if lasting else first)


def test_an_error_that_a_library_hides_is_told(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For `glob`, by which Orbax finds the arrays it has written, a folder that can't be listed is empty."""
    find = glob.glob
    monkeypatch.setattr(glob, "glob", lambda pattern: [] if "ocdbt.process" in pattern else find(pattern))
    assert train("run", "--backend=torch", "--quiet") == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: no checkpoint can be written")
    assert Checkpoints(Path("run/checkpoints"), read_only=True).steps == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "name", "kinds", "error", "lasting"),
    [
        *(
            (backend, "resume", WRITING, error, lasting)
            for backend in ("torch", "jax")
            for error, lasting in ((errno.ENOSPC, True), (errno.EROFS, True), (errno.EIO, False))
        ),
        ("torch", "resume", READING, errno.EIO, False),
        ("torch", "anew", WRITING, errno.ENOSPC, True),
    ],
)
def test_a_run_ends_in_a_line_after_an_error_at_any_operation(
    backend: str,
    name: str,
    kinds: int,
    error: int,
    lasting: bool,
    scenario: Callable[..., Scenario],
    in_memory: Path,
) -> None:
    wrong = []
    for first in count(1):
        last = LAST if lasting else first
        try:
            if not scenario(backend, name).case(in_memory / "case", kinds, error, first, last):
                break
        except AssertionError as failure:
            print(failure)
            wrong.append(first)
    kind = "writing" if kinds == WRITING else "reading"
    print(f"{backend} {name} {kind} {errno.errorcode[error]}: {first - 1} operations, {len(wrong)} wrong")
    assert not wrong
