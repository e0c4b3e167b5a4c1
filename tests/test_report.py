"""What a person reads of a run: true, made from its files alone, and never in the way of the training."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanogpt.errors import InputError
from nanogpt.record import Evaluation, Record
from nanogpt.report.chart import HEIGHT, WIDTH, loss_chart
from nanogpt.report.markdown import fenced, write_report
from nanogpt.report.tensorboard import TAGS, EventLog
from nanogpt.report.terminal import Terminal, pace
from nanogpt.training.log import Progress
from nanogpt.training.metrics import evaluations, read_metrics
from nanogpt.training.pace import seconds_left
from tests.conftest import BACKENDS, Train, tiny_flags
from tests.test_training import assert_same_run, interrupt_after

ROOT = Path(__file__).parents[1]
REPORTS = ("samples.md", "loss.svg", "report.md")


def record(step: int, loss: float | None, val_loss: float | None = None, rate: float | None = 1e-3) -> Record:
    known = {"step": step, "loss": loss, "learning_rate": rate, "tokens_per_second": 9_000}
    if val_loss is None:
        return Record(**known)
    return Evaluation(**known, train_loss=val_loss, val_loss=val_loss, sample="")


def fences(markdown: str) -> list[str]:
    return [token.content for token in MarkdownIt().parse(markdown) if token.type == "fence"]


def test_a_sample_is_kept_of_every_evaluation(finished_run: Path) -> None:
    samples = (finished_run / "samples.md").read_text(encoding="utf-8")
    evaluated = evaluations(read_metrics(finished_run / "metrics.jsonl"))
    assert re.findall("^## (.*)$", samples, flags=re.M) == ["Step 0", "Step 10", "Step 20"]
    assert all(f"validation {record.val_loss:.4f}" in samples for record in evaluated)
    assert all(len(record.sample) == len("\n") + 100 for record in evaluated)
    assert fences(samples) == [record.sample.strip("\n") + "\n" for record in evaluated]
    assert len(set(fences(samples))) == 3


def test_a_report_tells_losses_settings_and_what_it_ran_on(finished_run: Path) -> None:
    report = (finished_run / "report.md").read_text(encoding="utf-8")
    evaluated = evaluations(read_metrics(finished_run / "metrics.jsonl"))
    for name, record in (("best", min(evaluated, key=lambda r: r.val_loss)), ("last", evaluated[-1])):
        line = f"| {name} | {record.step} | {record.train_loss:.4f} | {record.val_loss:.4f} |"
        assert line in report
    assert "parameters, step 20 of 20, 0:00:" in report
    sample, settings, environment = fences(report)
    assert sample.strip("\n") == evaluated[-1].sample.strip("\n")
    assert re.search("^n_embd +16 +128$", settings, flags=re.M)
    assert "dropout" not in settings
    assert re.search("^backend +torch$", environment, flags=re.M)
    assert re.search(r"^torch +2\.", environment, flags=re.M)


def test_a_report_is_made_from_the_files_alone(finished_run: Path, tmp_path: Path) -> None:
    for name in ("config.json", "environment.json", "metrics.jsonl"):
        shutil.copy(finished_run / name, tmp_path)
    for _ in range(2):
        write_report(tmp_path)
        for name in REPORTS:
            assert (tmp_path / name).read_bytes() == (finished_run / name).read_bytes(), name
    (tmp_path / "tokenizer.json").touch()
    write_report(tmp_path)
    assert "nats a token" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_no_report_is_made_of_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run that was evaluated"):
        write_report(tmp_path)


PIECES = [
    "`",
    "```",
    "````\n",
    "~~~",
    "\n",
    "\r",
    "\r\n",
    "    ",
    "\t",
    "# a",
    "- ",
    "> ",
    "\0",
    "\u2028",
    "]]>",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_no_text_breaks_out_of_its_fence(pieces: list[str]) -> None:
    text = "".join(pieces)
    first, *others = MarkdownIt().parse(fenced(text) + "after")
    assert first.type == "fence"
    assert first.content == re.sub("\r\n?", "\n", text.strip("\n") + "\n").replace("\0", "\ufffd")
    assert [token.content for token in others] == ["", "after", ""]


def test_the_chart_shows_both_losses_and_where_they_ended(finished_run: Path) -> None:
    chart = ElementTree.parse(finished_run / "loss.svg").getroot()
    evaluated = evaluations(read_metrics(finished_run / "metrics.jsonl"))
    heights = {}
    for name, key in (("training", "train_loss"), ("validation", "val_loss")):
        line = chart.find(f"{{*}}g[@class='{name}']")
        assert line is not None
        points = [tuple(map(float, p.split(","))) for p in line.find("{*}polyline").get("points").split()]
        heights |= {getattr(record, key): y for record, (_, y) in zip(evaluated, points, strict=True)}
        x, middle, end = (x for x, _ in points)
        assert end - middle == pytest.approx(middle - x, abs=0.11)
        assert line.findtext("{*}text") == f"{name} {getattr(evaluated[-1], key):.3f}"
        circle = line.find("{*}circle")
        assert (float(circle.get("cx")), float(circle.get("cy"))) == points[-1]
    top, bottom = max(heights), min(heights)
    for loss, y in heights.items():
        share = math.log(loss / bottom) / math.log(top / bottom)
        assert y == pytest.approx(heights[bottom] + share * (heights[top] - heights[bottom]), abs=0.11)


def test_a_chart_marks_the_best_loss_where_it_was_not_the_last() -> None:
    chart = loss_chart([record(0, 3.0, 3.0), record(10, 2.0, 2.5), record(20, 1.0, 2.6)], "title", "token")
    assert "best 2.500" in chart
    assert "nats a token" in chart


def test_a_chart_keeps_its_size_and_its_ends_however_long_the_run() -> None:
    losses = [record(step, 2 + 1 / (1 + step)) for step in range(50_000)]
    chart = loss_chart([*losses, record(50_000, 2.0, 2.0, 0.75e-3)], "title", "character")
    assert len(chart) < 20_000
    assert "training 2.000" in chart
    assert ">0.00075<" in chart


ODD = {
    "one evaluation": [record(0, None, 4.0, None)],
    "zeros": [record(0, None, 0.0, None), record(5, 0.0, 0.0, 0.0)],
    "no numbers": [record(0, None, math.nan, None), record(7, math.inf, math.nan)],
    "one value": [record(step, 3.0, 3.0) for step in range(3)],
    "a wide range": [record(step, 10.0 ** (3 - step), 10.0**step) for step in range(9)],
    "a million steps": [record(10**6 * step, 5.001 - step / 1e6, 5.0) for step in range(3)],
}


@pytest.mark.parametrize("records", ODD.values(), ids=ODD.keys())
def test_any_records_can_be_drawn(records: list[Record]) -> None:
    title = "<&>\"' ]]>"
    chart = ElementTree.fromstring(loss_chart(records, title + "\1\n", "character"))
    title += "??"
    assert chart.findtext("{*}title") == chart.findtext("{*}g[@class='title']/{*}text") == title
    drawn = [element.attrib for element in chart.iter()]
    x = [float(a[key]) for a in drawn for key in ("x", "cx", "x1", "x2") if key in a]
    y = [float(a[key]) for a in drawn for key in ("y", "cy", "y1", "y2") if key in a]
    for point in " ".join(a.get("points", "") for a in drawn).split():
        x.append(float(point.split(",")[0]))
        y.append(float(point.split(",")[1]))
    assert 0 <= min(x) <= max(x) <= WIDTH
    assert 0 <= min(y) <= max(y) <= HEIGHT


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


@pytest.mark.parametrize("backend", BACKENDS)
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
    assert sorted(f.name for f in (tmp_path / "run").glob(".*")) == []  # nothing half-written is left
    (tmp_path / "run/report.md").rmdir()
    write_report(tmp_path / "run")
    assert_same_run(tmp_path / "run", finished_run)


def test_tensorboard_reads_what_was_measured(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(3, patch)
        assert train("run", "--backend=torch", "--log=tensorboard") == 128 + 2
    assert train("run", "--log=tensorboard") == 0
    records = read_metrics(tmp_path / "run/metrics.jsonl")
    assert_logged(tmp_path / "run", records)
    # A start that goes on from before: what was logged past its checkpoint is void.
    EventLog(tmp_path / "run", records[:3])(Progress("log", records[3]))
    assert_logged(tmp_path / "run", records[:4])


def assert_logged(run: Path, records: list[Record]) -> None:
    events = EventAccumulator(str(run)).Reload()
    tags = set(events.Tags()["scalars"])
    assert tags == set(TAGS.values()) - {"speed/mfu"}  # this device's peak is not known
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
