"""A killed run goes on from its last checkpoint, and ends as one that was left alone."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanogpt.cli.train import train_main
from nanogpt.randomness import uniforms
from nanogpt.training.metrics import read_metrics
from tests.conftest import BACKENDS, ROOT, tiny_flags
from tests.runs import assert_same_run

APART = 60  # So many steps lie between two kills.


def kill_and_compare(backend: str, kills: int, seed: int, text_file: Path, tmp_path: Path) -> None:
    """Kill a run at random steps, start it again each time, and compare its end with a run left alone.

    It saves every 5 steps of a tiny model, so that most of its time is spent inside a save.
    """
    flags = [*tiny_flags(text_file), "--eval_interval=5", "--dropout=0.1", f"--backend={backend}", "--quiet"]
    flags.append(f"--max_iters={APART * (kills + 1)}")

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, ROOT / "train.py", *flags, "--out_dir=killed"]
        return subprocess.Popen(command, cwd=tmp_path)

    print(f"moments of the kills: seed {seed}")
    moments = zip(uniforms(seed, "steps", 0, kills), uniforms(seed, "seconds", 0, kills), strict=True)
    for number, (share, delay) in enumerate(moments):
        process = start()
        while last_step(tmp_path / "killed") < APART * number + 10 + share * (APART - 20):
            assert process.poll() is None, "the run ended before it was killed"
            time.sleep(0.002)
        time.sleep(0.05 * float(delay))
        # Every other kill falls into a save.
        while number % 2 and not any((tmp_path / "killed/checkpoints").glob("*.orbax-checkpoint-tmp*")):
            assert process.poll() is None, "the run ended before it was killed"
        process.kill()
        process.wait()
    assert start().wait() == 0
    assert train_main([*flags, "--out_dir=whole"]) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def last_step(run: Path) -> int:
    return max((record.step for record in read_metrics(run / "metrics.jsonl")), default=-1)


@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_killed_run_ends_as_one_left_alone(
    backend: str, seed: int, text_file: Path, tmp_path: Path
) -> None:
    kill_and_compare(backend, 2, seed, text_file, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ten_kills_at_random_moments(backend: str, seed: int, text_file: Path, tmp_path: Path) -> None:
    kill_and_compare(backend, 10, seed, text_file, tmp_path)
