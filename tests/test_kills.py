"""A killed run goes on from its last checkpoint, and ends as one that was left alone.

A run is trained by one backend up to a step, and by the other one up to twice as many steps. Each command is
killed again and again until it ends by itself. The twins agree only to rounding: the run that is left alone
changes its backend at the same step.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import nanogpt.checkpoint
from nanogpt.checkpoint import Checkpoints
from nanogpt.cli.train import train_main
from nanogpt.metadata import Metadata
from nanogpt.randomness import uniforms
from nanogpt.state import TrainingState
from tests.conftest import BACKENDS, ROOT, tiny_flags
from tests.forks import Forks
from tests.runs import assert_same_run

pytest_plugins = ["tests.reliability_fixtures"]

INTERVAL = 5  # So many steps lie between two saves: a run spends much of its time inside them.
# The rate stays where it is: no step asks how many follow.
CONSTANT = ["--learning_rate=0.02", "--min_lr=0.02", "--dropout=0.1", "--quiet"]

Start = Callable[[list[str], Path], Any]
"""Starts train.py in a folder, where it writes stderr.txt; what it returns has `poll`, `wait` and `kill`."""


def fork(forks: Forks, flags: list[str], folder: Path, main: str = "nanogpt.cli.train:train_main") -> Any:
    return forks.start(flags, folder, folder / "stderr.txt", main)


def process(flags: list[str], folder: Path) -> Any:
    with (folder / "stderr.txt").open("wb") as stderr:
        return subprocess.Popen([sys.executable, ROOT / "train.py", *flags], cwd=folder, stderr=stderr)


def kill_and_compare(
    start: Start, order: list[str], steps: int, kills: int, seed: int, text_file: Path, folder: Path
) -> Counter[str]:
    """Kill runs at random moments until there were so many kills, and compare each with one left alone.

    Returns where they were killed.
    """
    flags = [*tiny_flags(text_file), *CONSTANT, f"--eval_interval={INTERVAL}"]
    parts = [
        [f"--backend={name}", f"--max_iters={steps * (number + 1)}"] for number, name in enumerate(order)
    ]
    for part in parts:
        assert start([*flags, *part, "--out_dir=whole"], folder).wait(600) == 0
    met: Counter[str] = Counter()
    for number in count():
        for part in parts:
            draw = partial(uniforms, seed, f"run {number} {part}")
            met += train_and_kill(start, [*flags, *part, "--out_dir=killed"], folder, draw)
        assert_same_run(folder / "killed", folder / "whole")
        heads = [(folder / run / "heads.jsonl").read_bytes() for run in ("killed", "whole")]
        assert heads[0] == heads[1]
        if met.total() >= kills:
            print(f"{' -> '.join(order)}: {number + 1} runs, {met.total()} kills by seed {seed}, {dict(met)}")
            return met
        shutil.rmtree(folder / "killed")
    raise AssertionError


def train_and_kill(
    start: Start, flags: list[str], folder: Path, draw: Callable[[int, int], Any]
) -> Counter[str]:
    """Start a command and kill it at a random moment, until it ends by itself. Returns where it was killed.

    Half of the moments are inside one of the next three saves. The others are at any time after up to two
    saves: while the run is read, in a step, in an evaluation, or when an old checkpoint is deleted.
    """
    met: Counter[str] = Counter()
    run = folder / "killed"
    for number in count():
        saves, inside, share = draw(number, 3).tolist()
        target, begun = newest_step(run) + INTERVAL * int(3 * saves), start(flags, folder)
        while begun.poll() is None and newest_step(run) < target:
            time.sleep(0.001)
        while inside < 0.5 and begun.poll() is None and not in_save(run):
            time.sleep(0.0002)
        time.sleep(share * (0.05 if inside < 0.5 else 0.5))
        begun.kill()
        code = begun.wait(60)
        assert (folder / "stderr.txt").read_text() == ""
        if code != -signal.SIGKILL:
            assert code == 0
            return met
        met["inside a save" if in_save(run) else "elsewhere"] += 1
    raise AssertionError


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint; without one, so many steps before the first as lie between two."""
    names = [path.name for path in (run / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=-INTERVAL)


def in_save(run: Path) -> bool:
    return any((run / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


@pytest.mark.long
def test_a_killed_run_ends_as_one_left_alone(forks: Forks, text_file: Path, memory_folder: Path) -> None:
    kill_and_compare(partial(fork, forks), BACKENDS, 10, 2, 1, text_file, memory_folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("order", [BACKENDS, BACKENDS[::-1]], ids="->".join)
def test_many_kills(forks: Forks, order: list[str], seed: int, text_file: Path, memory_folder: Path) -> None:
    met = kill_and_compare(partial(fork, forks), order, 60, 240, seed, text_file, memory_folder)
    assert met["inside a save"] >= met.total() / 3


@pytest.mark.slow
@pytest.mark.parametrize("order", [BACKENDS, BACKENDS[::-1]], ids="->".join)
def test_kills_of_a_process_of_its_own(order: list[str], text_file: Path, memory_folder: Path) -> None:
    kill_and_compare(process, order, 60, 20, 4, text_file, memory_folder)


def train_in_place(flags: list[str]) -> int:
    """Train with saves that are not renamed: their files come one by one to their last place."""

    def in_place(part: Path, final: Path) -> None:
        for file in [path for path in part.rglob("*") if path.is_file()]:
            (final / file.relative_to(part)).parent.mkdir(parents=True, exist_ok=True)
            file.rename(final / file.relative_to(part))
            time.sleep(0.02)
        shutil.rmtree(part)

    nanogpt.checkpoint.commit = in_place
    return train_main(flags)


def train_without_moments(flags: list[str]) -> int:
    """Train with checkpoints that lose the second moment when they are read."""
    restore = Checkpoints.restore

    def forgetful(self: Checkpoints, step: int) -> tuple[TrainingState, Metadata]:
        state, metadata = restore(self, step)
        zeros = {name: 0 * array for name, array in state.second_moment.items()}
        return replace(state, second_moment=zeros), metadata

    Checkpoints.restore = forgetful
    return train_main(flags)


@pytest.mark.long
@pytest.mark.parametrize("main", [train_in_place, train_without_moments])
def test_a_run_that_is_not_kept_well_would_be_noticed(
    main: Callable[[list[str]], int], forks: Forks, text_file: Path, memory_folder: Path
) -> None:
    start = partial(fork, forks, main=f"{__name__}:{main.__name__}")
    with pytest.raises(AssertionError):
        kill_and_compare(start, ["torch"], 20, 20, 5, text_file, memory_folder)
