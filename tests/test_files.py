"""Files of JSON lines: what is damaged takes nothing else with it, and is not lost."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.files import JsonLines, read_lines
from nanogpt.heads.log import excess, read_heads
from nanogpt.record import record_from_dict
from nanogpt.training.metrics import read_metrics
from tests.conftest import Train
from tests.runs import final_state, json_lines

DAMAGED = {
    "nothing": b"",
    "cut": b'{"step": 1, "los',
    "no UTF-8": b'{"step": 1, "sample": "\xff"}',
    "no object": b"[1, 2]",
    "a word": b'"step"',
    "no step": b'{"loss": 1.0}',
    "a step that is none": b'{"step": "1", "elapsed": 1.0}',
    "half a step": b'{"step": 1.5, "elapsed": 1.0}',
    "a loss that is none": b'{"step": 1, "loss": "low", "elapsed": 1.0}',
    "half an evaluation": b'{"step": 1, "val_loss": 1.0, "elapsed": 1.0}',
    "NaN": b'{"step": 1, "loss": NaN, "elapsed": 1.0}',
    "many digits": b'{"step": 1' + b"0" * 5000 + b"}",
    "deep": b"[" * 100_000,
    "two lines in one": b'{"step": 1, "elapsed": 1.0}{"step": 2, "elapsed": 1.0}',
}
LINES = [{"step": step, "elapsed": float(step)} for step in range(4)]


@given(st.lists(st.sampled_from([*LINES, *DAMAGED])), st.sampled_from([b"", b'{"step": 9', b"\xff"]))
def test_every_good_line_is_read_and_every_bad_one_is_named(lines: list[dict | str], cut: bytes) -> None:
    good = [line for line in lines if isinstance(line, dict)]
    content = b"".join(
        (json.dumps(line).encode() if isinstance(line, dict) else DAMAGED[line]) + b"\n" for line in lines
    )
    file = Path("lines.jsonl")
    file.write_bytes(content + cut)
    found, damaged = read_lines(file, record_from_dict)
    assert found == good
    assert damaged == [number for number, line in enumerate(lines, 1) if not isinstance(line, dict)]


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_kept_beside_the_mended_one(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "metrics.jsonl"
    before, after = (json.dumps(line).encode() for line in (LINES[0], LINES[2]))
    content = b"\n".join([before, DAMAGED[damage], after, b""])
    file.write_bytes(content)
    lines = JsonLines(file, 2, record_from_dict)
    lines.append(LINES[3])
    assert json_lines(file) == lines.lines == [LINES[0], LINES[2], LINES[3]]
    assert (tmp_path / "damaged-metrics.jsonl").read_bytes() == content
    (told,) = capsys.readouterr().err.splitlines()
    assert "metrics.jsonl is damaged in line 2" in told


def test_a_file_that_a_kill_cut_short_is_no_damaged_one(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(json.dumps(LINES[0]) + '\n{"step": 1, "el')
    assert JsonLines(file, 9, record_from_dict).lines == [LINES[0]]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "heads.jsonl"])
def test_a_run_with_a_damaged_line_goes_on(
    name: str, finished_run: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    first, *others = (run / name).read_bytes().splitlines(keepends=True)
    (run / name).write_bytes(first + b"\xff not a line\n" + b"".join(others))
    assert len(read_metrics(run / "metrics.jsonl")) == len(json_lines(finished_run / "metrics.jsonl"))
    assert read_heads(run / "heads.jsonl") == json_lines(finished_run / "heads.jsonl")
    assert train("run", "--max_iters=30") == 0
    assert f"{name} is damaged in line 2" in capsys.readouterr().err
    assert final_state(run).step == 30
    kept = json_lines(run / name)
    assert kept[: len(others) + 1] == json_lines(finished_run / name)
    assert kept[-1]["step"] == 30


def change_a_digit(lines: list[bytes]) -> list[bytes]:
    return [lines[0].replace(b"0.", b"1.", 1), *lines[1:]]


CHANGES = {
    "a digit": change_a_digit,
    "a lost line": lambda lines: lines[1:],
    "lost at the end": lambda lines: lines[:-1],
    "all lost": lambda lines: [],
    "twice": lambda lines: [*lines, lines[-1]],
    "out of order": lambda lines: lines[::-1],
}


@pytest.mark.parametrize("name", ["metrics.jsonl", "heads.jsonl"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_line_that_was_lost_or_changed_is_told(
    change: str, name: str, finished_run: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    file = shutil.copytree(finished_run, Path("run")) / name
    damaged = b"".join(CHANGES[change](file.read_bytes().splitlines(keepends=True)))
    file.write_bytes(damaged)
    assert train("run", "--max_iters=24", "--quiet") == 0
    (told,) = capsys.readouterr().err.splitlines()
    assert told == f"run/{name} has lost or changed lines: a copy of it is kept as run/damaged-{name}"
    assert Path(f"run/damaged-{name}").read_bytes() == damaged
    assert train("run", "--max_iters=28", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_a_line_of_the_heads_must_be_whole(finished_run: Path) -> None:
    line = json_lines(finished_run / "heads.jsonl")[0]
    name = next(iter(line["scores"]))
    for wrong in (
        line | {"step": "0"},
        line | {"uniform": {}},
        line | {"scores": {name: [[0.5], [0.5, 0.5]]}},
        line | {"scores": {name: [["much"]]}},
        line | {"scores": [1]},
    ):
        with pytest.raises((TypeError, ValueError, KeyError, AttributeError)):
            excess(wrong)
