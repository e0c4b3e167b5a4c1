"""A run: what it writes, how it goes on, and that nobody can tell where it was cut."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import nanogpt.training.log
import nanogpt.training.loop
from nanogpt.checkpoint import Checkpoints
from nanogpt.files import read_lines
from nanogpt.randomness import uniforms
from nanogpt.state import TrainingState
from nanogpt.training.batches import StepInputs, step_inputs
from nanogpt.training.metrics import read_metrics
from tests.conftest import BACKENDS, Train, assert_same_weights, tiny_flags

ROOT = Path(__file__).parents[1]
KEYS = [
    "step",
    "loss",
    "learning_rate",
    "tokens_per_second",
    "mfu",
    "train_loss",
    "val_loss",
    "elapsed",
    "sample",
]
TIMES = {"tokens_per_second", "mfu", "elapsed"}


def final_state(out_dir: Path) -> TrainingState:
    checkpoints = Checkpoints(out_dir / "checkpoints", read_only=True)
    return checkpoints.restore(checkpoints.steps[-1])[0]


def assert_same_run(actual: Path, expected: Path) -> None:
    """The same weights and moments to the last bit, and the same measurements and reports but for time."""
    one, other = final_state(actual), final_state(expected)
    assert one.step == other.step
    for part in ("weights", "first_moment", "second_moment"):
        assert_same_weights(getattr(one, part), getattr(other, part))
    assert timeless(actual) == timeless(expected)


def timeless(run: Path) -> list[Any]:
    """What a run measured, and what its folder shows a person."""
    records = read_lines(run / "metrics.jsonl")
    shown = [(run / name).read_text(encoding="utf-8") for name in ("samples.md", "loss.svg", "report.md")]
    shown[-1] = re.sub(r"\d+:\d\d:\d\d, [\d,]+ tokens/s", "", shown[-1])
    return [{key: record[key] for key in record.keys() - TIMES} for record in records] + shown


def interrupt_after(calls: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGINT) -> None:
    """Send this process a signal when a run hands over its call number `calls`."""
    made = iter(range(1, 1000))

    def counted(*arguments: Any) -> StepInputs:
        if next(made) == calls:
            os.kill(os.getpid(), number)
        return step_inputs(*arguments)

    monkeypatch.setattr(nanogpt.training.loop, "step_inputs", counted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_writes_its_folder(backend: str, train: Train, tmp_path: Path) -> None:
    assert train("run", f"--backend={backend}") == 0
    records = read_lines(tmp_path / "run/metrics.jsonl")
    assert [record["step"] for record in records] == [0, 4, 8, 10, 12, 16, 20]
    assert all(list(record) == KEYS for record in records)
    evaluations = [record for record in records if record["val_loss"] is not None]
    assert [record["step"] for record in evaluations] == [0, 10, 20]
    assert evaluations[-1]["val_loss"] < evaluations[0]["val_loss"]
    assert Checkpoints(tmp_path / "run/checkpoints", read_only=True).steps == [10, 20]
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["model"]["n_embd"] == 16
    assert config["run"]["backend"] == backend


def test_each_line_tells_the_time_left_once_the_pace_is_known(
    train: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paces = []

    def seconds_left(step: int, max_iters: int, eval_interval: int, *pace: float) -> float:
        assert (max_iters, eval_interval) == (20, 10)
        paces.append(pace)
        return 3600.0 + step

    monkeypatch.setattr(nanogpt.training, "seconds_left", seconds_left)
    assert train("run", "--backend=torch", "--log_interval=1") == 0
    first, *others = re.findall(r"^step .* tokens/s.*$", capsys.readouterr().out, flags=re.M)
    assert "left" not in first
    assert len(others) == 20 - 3
    for line in others:
        assert re.fullmatch(r"step +\d+  loss \d\.\d{4}  [\d,]+ tokens/s, 1:00:\d\d left", line)
    assert min(min(pace) for pace in paces) > 0  # of a step, and of an evaluation


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    backend: str,
    number: int,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [f"--backend={backend}", "--dropout=0.2"]
    assert train("whole", *flags) == 0
    with monkeypatch.context() as patch:
        interrupt_after(3, patch, number)
        assert train("cut", *flags) == 128 + number
    assert "Stopped and saved. To go on: python train.py --out_dir cut" in capsys.readouterr().out
    assert 0 < final_state(tmp_path / "cut").step < 20
    assert train("cut") == 0
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize(("first", "second"), [BACKENDS, BACKENDS[::-1]])
def test_either_backend_goes_on_with_the_others_run(
    first: str, second: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run", f"--backend={first}", "--max_iters=10") == 0
    assert train("run", f"--backend={second}", "--max_iters=20") == 0
    out = capsys.readouterr().out
    assert f"changed  backend: {first} -> {second}" in out
    assert "changed  max_iters: 10 -> 20" in out
    assert final_state(tmp_path / "run").step == 20


def test_a_finished_run_says_how_to_train_longer(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("run", "--backend=torch") == 0
    before = capsys.readouterr().out
    assert "Finished" in before
    assert "python sample.py --out_dir run" in before
    assert train("run") == 0
    assert "To train longer: python train.py --out_dir run --max_iters 40" in capsys.readouterr().out


def test_another_model_or_text_is_refused_with_each_difference(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run", "--backend=torch") == 0
    before = sorted((f, f.stat().st_mtime_ns) for f in (tmp_path / "run").rglob("*"))
    other = tmp_path / "other.txt"
    other.write_text("another text, with other characters? " * 50)
    assert train("run", "--n_layer=2", "--n_embd=32", f"--data={other}") == 2
    error = capsys.readouterr().err
    for difference in ("n_layer: 1 -> 2", "n_embd: 16 -> 32", "data sha256: "):
        assert difference in error
    assert error.count("\n") == 1
    assert sorted((f, f.stat().st_mtime_ns) for f in (tmp_path / "run").rglob("*")) == before


def test_never_moves_the_old_run_aside(train: Train, tmp_path: Path) -> None:
    for _ in range(3):
        assert train("run", "--backend=torch", "--resume=never", "--max_iters=10") == 0
    assert sorted(folder.name for folder in tmp_path.glob("run*")) == ["run", "run.old", "run.old.1"]
    assert all(final_state(folder).step == 10 for folder in tmp_path.glob("run*"))


def test_never_leaves_a_folder_alone_that_is_no_run(train: Train, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    assert train("run", "--backend=torch", "--resume=never", "--max_iters=10") == 0
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    assert [folder.name for folder in tmp_path.glob("run*")] == ["run"]


def test_a_damaged_newest_checkpoint_is_passed_over(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--backend=torch"]
    assert train("whole", *flags) == 0
    assert train("run", *flags) == 0
    damage(tmp_path / "run/checkpoints/20")
    assert train("run") == 0
    assert "is damaged" in capsys.readouterr().err
    assert (tmp_path / "run/damaged-20").is_dir()
    assert_same_run(tmp_path / "run", tmp_path / "whole")

    for folder in (tmp_path / "run/checkpoints").iterdir():
        damage(folder)
    assert train("run") == 2
    assert "no other can be read" in capsys.readouterr().err


def damage(checkpoint: Path) -> None:
    largest = max((f for f in checkpoint.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_a_loss_that_is_no_number_stops_the_run(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--learning_rate=1e30", "--min_lr=1e30", "--warmup_iters=0", "--grad_clip=0"]
    assert train("run", "--backend=torch", *flags) == 2
    assert "lower --learning_rate" in capsys.readouterr().err


def test_bfloat16_trains(train: Train, tmp_path: Path) -> None:
    for backend in BACKENDS:
        assert train(backend, f"--backend={backend}", "--dtype=bfloat16") == 0
        first, *_, last = read_metrics(tmp_path / backend / "metrics.jsonl")
        assert last.val_loss < first.val_loss
        assert all(w.dtype == "float32" for w in final_state(tmp_path / backend).weights.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's compiler warns of itself
def test_compiled_torch_blocks_train_alike(train: Train, tmp_path: Path) -> None:
    assert train("eager", "--backend=torch") == 0
    assert train("compiled", "--backend=torch", "--compile") == 0
    one, other = (read_metrics(tmp_path / run / "metrics.jsonl")[-1] for run in ("eager", "compiled"))
    assert one.val_loss == pytest.approx(other.val_loss, abs=1e-4)


def kill_and_compare(backend: str, kills: int, text_file: Path, tmp_path: Path) -> None:
    """Kill a run at random steps, start it again each time, and compare its end with a run left alone.

    It saves every 5 steps of a tiny model, so that most of its time is spent inside a save.
    """

    apart = 60

    def start(out_dir: str) -> subprocess.Popen[bytes]:
        flags = [*tiny_flags(text_file), "--eval_interval=5", "--dropout=0.1"]
        flags.append(f"--max_iters={apart * (kills + 1)}")
        command = [sys.executable, ROOT / "train.py", *flags, f"--backend={backend}", f"--out_dir={out_dir}"]
        return subprocess.Popen([*command, "--quiet"], cwd=tmp_path)

    seed = time.time_ns() % 2**32
    print(f"moments of the kills: seed {seed}")
    moments = zip(uniforms(seed, "steps", 0, kills), uniforms(seed, "seconds", 0, kills), strict=True)
    for number, (share, delay) in enumerate(moments):
        process = start("killed")
        while last_step(tmp_path / "killed") < apart * number + 10 + share * (apart - 20):
            assert process.poll() is None, "the run ended before it was killed"
            time.sleep(0.002)
        time.sleep(0.05 * float(delay))
        # Every other kill falls into a save.
        while number % 2 and not any((tmp_path / "killed/checkpoints").glob("*.orbax-checkpoint-tmp*")):
            assert process.poll() is None, "the run ended before it was killed"
        process.kill()
        process.wait()
    assert start("killed").wait() == 0
    assert start("whole").wait() == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def last_step(run: Path) -> int:
    return max((record.step for record in read_metrics(run / "metrics.jsonl")), default=-1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_killed_run_ends_as_one_left_alone(backend: str, text_file: Path, tmp_path: Path) -> None:
    kill_and_compare(backend, 2, text_file, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_ten_kills_at_random_moments(backend: str, text_file: Path, tmp_path: Path) -> None:
    kill_and_compare(backend, 10, text_file, tmp_path)
