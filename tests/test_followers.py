"""The terminal, the report and TensorBoard follow a run, and are never in the way of the training."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanogpt.record import Record
from nanogpt.report.markdown import write_report
from nanogpt.report.tensorboard import TAGS, EventLog
from nanogpt.report.terminal import Terminal, pace
from nanogpt.training.log import Progress, forgiving
from nanogpt.training.metrics import read_metrics
from nanogpt.training.pace import seconds_left
from tests.conftest import ROOT, Train, tiny_flags
from tests.runs import REPORTS, assert_same_run, interrupted_after, record


@pytest.mark.parametrize(("max_iters", "eval_interval"), [(30, 10), (25, 10), (7, 10), (10, 1)])
def test_the_time_left_is_that_of_the_steps_and_evaluations_left(max_iters: int, eval_interval: int) -> None:
    for step in range(1, max_iters + 1):
        left = [s for s in range(step, max_iters + 1) if s % eval_interval == 0 or s == max_iters]
        expected = (max_iters - step) * 2.0 + len(left) * 30.0
        assert seconds_left(step, max_iters, eval_interval, 2.0, 30.0) == expected


def test_the_pace_is_told_as_far_as_it_is_known() -> None:
    known = Record(step=1, tokens_per_second=12_345, mfu=0.414)
    assert pace(known, 3_725.4) == "12,345 tokens/s, 41% MFU, 1:02:05 left"
    assert pace(Record(step=1, tokens_per_second=12_345)) == "12,345 tokens/s"
    assert pace(Record(step=1)) == ""


def test_the_live_line_tells_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    with terminal.live(0, 2_000):
        terminal(Progress("call", record(1_500, 1.5), 250))
        terminal(Progress("call", record(1_501, 2.5), 249))
    out = capsys.readouterr().out
    assert "step 1,501/2,000" in out
    assert "loss 1.6000 9,000 tokens/s, 0:04:09 left" in out
    assert out.count("to the end") == out.count("About 0:04:10 to the end") == 1


@pytest.mark.parametrize("backend", [pytest.param("jax", marks=pytest.mark.long), "torch"])
def test_a_quiet_run_prints_nothing_and_writes_everything(
    backend: str, text_file: Path, tmp_path: Path
) -> None:
    flags = [*tiny_flags(text_file), f"--backend={backend}", "--out_dir=run", "--quiet", "--log=tensorboard"]
    done = subprocess.run([sys.executable, ROOT / "train.py", *flags], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    written = {"config.json", "environment.json", "metrics.jsonl", "heads.jsonl", "checkpoints", *REPORTS}
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert written < names
    (events,) = names - written
    assert events.startswith("events.out.tfevents.")


def test_a_report_that_cannot_be_written_is_told_once_and_stops_nothing(
    train: Train, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run/report.md").mkdir(parents=True)
    assert train("run", "--backend=torch") == 0
    captured = capsys.readouterr()
    assert "Finished" in captured.out
    (told,) = captured.err.splitlines()
    assert "the report can't be written" in told
    assert "report.md" in told
    assert sorted(f.name for f in (tmp_path / "run").glob(".*")) == []  # Nothing half-written is left.
    (tmp_path / "run/report.md").rmdir()
    write_report(tmp_path / "run")
    assert_same_run(tmp_path / "run", finished_run)


def test_tensorboard_reads_what_was_measured(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with interrupted_after(3):
        assert train("run", "--backend=torch", "--log=tensorboard") == 128 + 2
    assert train("run", "--log=tensorboard") == 0
    records = read_metrics(tmp_path / "run/metrics.jsonl")
    assert_logged(tmp_path / "run", records)
    # This start goes on from before: whatever was logged past its checkpoint is void.
    EventLog(tmp_path / "run", records[:3])(Progress("log", records[3]))
    assert_logged(tmp_path / "run", records[:4])


def assert_logged(run: Path, records: list[Record]) -> None:
    events = EventAccumulator(str(run)).Reload()
    tags = set(events.Tags()["scalars"])
    assert tags == set(TAGS.values()) - {"speed/mfu"}  # This device's peak is not known.
    lines = [record.as_dict() for record in records]
    for key, tag in TAGS.items():
        measured = [(r["step"], pytest.approx(r[key])) for r in lines if r[key] is not None]
        assert [(e.step, e.value) for e in events.Scalars(tag)] == measured if tag in tags else not measured


def test_an_event_file_that_fails_is_told_once_and_stops_nothing(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: EventLog, progress: Progress) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventLog, "__call__", full)
    assert train("run", "--backend=torch", "--log=tensorboard") == 0
    (told,) = capsys.readouterr().err.splitlines()
    assert "the event file can't be written ([Errno 28] No space left on device)" in told
    assert "Step 20" in (tmp_path / "run/samples.md").read_text()


def test_a_missing_tensorboard_is_told_in_one_line(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    assert train("run", "--backend=torch", "--log=tensorboard") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert 'pip install -c constraints.txt -e ".[tensorboard]"' in captured.err


def test_logging_makes_no_other_run_of_it(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run", "--backend=torch", "--max_iters=10") == 0
    before = (tmp_path / "run/config.json").read_text()
    assert "tensorboard" not in json.loads(before)["run"].values()
    assert train("run", "--max_iters=10", "--log=tensorboard") == 0
    assert "changed" not in capsys.readouterr().out
    assert (tmp_path / "run/config.json").read_text() == before


def test_a_text_is_told_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().say("CR:A:?n [bold]:smile:[/bold]")
    assert capsys.readouterr().out == "CR:A:?n [bold]:smile:[/bold]\n"


def test_who_is_forgiven_is_told_everything_and_complained_of_once() -> None:
    steps, complaints = [], []

    def fail(progress: Progress) -> None:
        steps.append(progress.record.step)
        raise ValueError("no such thing")

    follow = forgiving("the song", fail, complaints.append)
    for step in range(3):
        follow(Progress("call", Record(step=step)))
    assert steps == [0, 1, 2]
    assert complaints == ["the song can't be written (no such thing): the training goes on without"]


def test_a_stop_is_never_forgiven() -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forgiving("the song", stop, print)(Progress("call", Record(step=1)))


@pytest.mark.long
def test_wandb_gets_the_numbers_of_the_metrics(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = [*tiny_flags(text_file), "--backend=torch", "--out_dir=run", "--quiet", "--log=wandb"]
    command = [sys.executable, ROOT / "train.py"]
    for max_iters in (10, 20):
        done = subprocess.run([*command, *flags, f"--max_iters={max_iters}"], capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    records = read_metrics(Path("run/metrics.jsonl"))
    first, second = sorted(Path("run").glob("wandb/offline-run-*/*.wandb"))  # by their time
    for file, expected in ((first, records[:4]), (second, records)):
        assert wandb_history(file) == [logged(record) for record in expected]


def logged(record: Record) -> dict[str, float]:
    numbers = record.as_dict()
    return {"_step": record.step} | {
        tag: numbers[key] for key, tag in TAGS.items() if numbers[key] is not None
    }


def wandb_history(file: Path) -> list[dict[str, float]]:
    """Read the numbers that were logged from wandb's own file, which has LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record as Entry

    content, position, data, history = file.read_bytes(), 7, b"", []
    while position + 7 <= len(content):
        left = 2**15 - position % 2**15
        if left < 7:  # the end of a block, which holds no header
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        data += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            items, data = Entry.FromString(data).history.item, b""
            numbers = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
            history += (
                [{key: numbers[key] for key in numbers if key == "_step" or key[0] != "_"}] if items else []
            )
    return history
