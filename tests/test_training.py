"""A run writes its folder and tells how it goes, and nobody can tell where it was stopped."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nanogpt.training.log
from nanogpt.checkpoint import Checkpoints
from nanogpt.choice import load_backend
from nanogpt.training.metrics import evaluations, read_metrics
from nanogpt_torch.backend import Backend
from tests.conftest import BACKENDS, Finished, Train
from tests.runs import assert_same_run, final_state, interrupted_after, json_lines, largest_difference, losses

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


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_writes_its_folder(backend: str, finished: Finished) -> None:
    run = finished(backend)
    records = json_lines(run / "metrics.jsonl")
    assert [record["step"] for record in records] == [0, 4, 8, 10, 12, 16, 20]
    assert all(list(record) == KEYS for record in records)
    evaluations = [record for record in records if record["val_loss"] is not None]
    assert [record["step"] for record in evaluations] == [0, 10, 20]
    assert evaluations[-1]["val_loss"] < evaluations[0]["val_loss"]
    assert Checkpoints(run / "checkpoints", read_only=True).steps == [10, 20]
    config = json.loads((run / "config.json").read_text())
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

    monkeypatch.setattr(nanogpt.training.log, "seconds_left", seconds_left)
    assert train("run", "--backend=torch", "--log_interval=1") == 0
    out = capsys.readouterr().out
    lines = re.findall(r"^step .* tokens/s.*$", out, flags=re.M)
    assert len(lines) == 20 - 2
    known = [line for line in lines if "left" in line]
    assert 9 <= len(known) < 18
    assert known == lines[-len(known) :]
    for line in known:
        assert re.fullmatch(r"step +\d+  loss \d\.\d{4}  [\d,]+ tokens/s, 1:00:\d\d left", line)
    (told,) = re.findall("^About 1:00:.*\n.*", out, flags=re.M)
    assert re.fullmatch(r"About (1:00:\d\d) to the end\n.* \1 left", told)
    assert min(min(pace) for pace in paces) > 0  # Both a step and an evaluation were measured.


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cpu_gets_a_call_when_the_one_before_it_is_done(
    backend: str, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one call would be measured with the time of two, as torch computes while it takes the call."""
    backend_class, seen = load_backend(backend), []
    original = backend_class.train

    def traced(self: Any, *inputs: Any) -> Callable[[], np.ndarray]:
        seen.append("taken")
        read_losses = original(self, *inputs)
        return lambda: seen.append("read") or read_losses()

    monkeypatch.setattr(backend_class, "train", traced)
    assert train("run", f"--backend={backend}") == 0
    assert seen == ["taken", "read"] * (len(seen) // 2)
    assert seen


@pytest.mark.parametrize(("number", "optimizer"), [(signal.SIGINT, "muon"), (signal.SIGTERM, "adamw")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    backend: str,
    number: int,
    optimizer: str,
    train: Train,
    finished: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [f"--optimizer={optimizer}", "--dropout=0.2", "--attention_dropout=0.1"]
    with interrupted_after(3, number):
        assert train("cut", f"--backend={backend}", *flags) == 128 + number
    assert "Stopped and saved. To go on: python train.py --out_dir cut" in capsys.readouterr().out
    assert 0 < final_state(tmp_path / "cut").step < 20
    assert train("cut") == 0
    assert_same_run(tmp_path / "cut", finished(backend, *flags))


@pytest.mark.parametrize(("calls", "step"), [(3, 10), (6, 20)])
def test_an_evaluation_that_is_cut_short_is_made_later(
    calls: int, step: int, train: Train, finished: Finished, tmp_path: Path
) -> None:
    """Each evaluation reads two texts; the first one is at step 0."""
    with interrupted_after(calls, function="evaluation.losses_in_parts"):
        assert train("cut", "--backend=torch") == 128 + signal.SIGINT
    checkpoints = Checkpoints(tmp_path / "cut/checkpoints", read_only=True)
    assert checkpoints.steps[-1] == step
    assert checkpoints.restore(step)[1].metrics is None
    assert train("cut") == 0
    assert_same_run(tmp_path / "cut", finished("torch"))
    reopened = Checkpoints(tmp_path / "cut/checkpoints", read_only=True)
    measured = evaluations(read_metrics(tmp_path / "cut/metrics.jsonl"))
    losses = {record.step: record.val_loss for record in measured}
    for kept in reopened.steps:
        metrics = reopened.restore(kept)[1].metrics
        assert metrics is not None
        assert metrics.val_loss == losses[kept]


def test_a_finished_run_says_how_to_train_longer(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("run", "--backend=torch") == 0
    before = capsys.readouterr().out
    assert "Finished" in before
    assert "python sample.py --out_dir run" in before
    assert train("run") == 0
    assert "To train longer: python train.py --out_dir run --max_iters 40" in capsys.readouterr().out


@pytest.mark.parametrize("interval", [1, 10])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_that_diverges_stops_and_saves_nothing(
    backend: str, interval: int, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether an evaluation or the next batch meets it first; and the advice works."""
    flags = ["--learning_rate=1e38", "--min_lr=1e38", "--warmup_iters=0", "--grad_clip=0"]
    assert train("run", f"--backend={backend}", f"--eval_interval={interval}", *flags) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "with a learning rate of 1e+38: with a lower --learning_rate (and --min_lr) the same" in told
    assert told.endswith("command goes on from step 0")
    for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN is no JSON
    assert Checkpoints(tmp_path / "run/checkpoints", read_only=True).steps == [0]
    assert train("run", "--learning_rate=1e-3", "--min_lr=1e-4") == 0
    assert final_state(tmp_path / "run").step == 20


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_trains(backend: str, train: Train, tmp_path: Path) -> None:
    assert train("run", f"--backend={backend}", "--dtype=bfloat16") == 0
    first, *_, last = read_metrics(tmp_path / "run/metrics.jsonl")
    assert last.val_loss < first.val_loss
    assert all(w.dtype == "float32" for w in final_state(tmp_path / "run").weights.values())


# It is 4 units in the last place of these losses; on the CPU where it was chosen they differ by 8e-9.
COMPILED_TOLERANCE = 1e-6


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # Torch's compiler warns of itself.
def test_a_tiny_compiled_model_trains_alike(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_compiled(*arguments: Any) -> Any:
        with torch.compiler.set_stance("default"):
            return step(*arguments)

    step = Backend.train
    monkeypatch.setattr(Backend, "train", train_compiled)
    flags = ["--backend=torch", "--device=cpu", "--dropout=0.2", "--max_iters=3", "--log_interval=1"]
    counted = torch._dynamo.utils.counters
    torch.compiler.reset()
    graphs = {}
    for name, more in (("eager", "--compile=False"), ("compiled", "--compile")):
        counted.clear()
        # The slow test below compiles whatever else reads the model too: that takes twice as long.
        with torch.compiler.set_stance("force_eager"):
            assert train(name, *flags, more) == 0
        graphs[name] = (counted["stats"]["unique_graphs"], sum(counted["graph_break"].values()))
    assert graphs == {"eager": (0, 0), "compiled": (1, 0)}
    eager, compiled = (read_metrics(tmp_path / run / "metrics.jsonl") for run in ("eager", "compiled"))
    assert [record.step for record in compiled] == [0, 1, 2, 3]
    assert largest_difference(losses(compiled), losses(eager)) < COMPILED_TOLERANCE
    assert len(set(losses(eager).values())) == 3 + 2 + 2  # No loss stands still.


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Torch's compiler warns of itself.
def test_compiled_torch_blocks_train_alike(train: Train, tmp_path: Path) -> None:
    assert train("eager", "--backend=torch") == 0
    assert train("compiled", "--backend=torch", "--compile") == 0
    one, other = (read_metrics(tmp_path / run / "metrics.jsonl")[-1] for run in ("eager", "compiled"))
    assert one.val_loss == pytest.approx(other.val_loss, abs=1e-4)
