"""The log of how heads form during a run."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Train
from tests.runs import interrupted_after, json_lines


def test_a_run_logs_how_its_heads_form(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--backend=torch", "--n_layer=2"]
    assert train("whole", *flags) == 0
    file = tmp_path / "whole/heads.jsonl"
    records = json_lines(file)
    assert [record["step"] for record in records] == [0, 10, 20]
    for record in records:
        assert "previous character" in record["scores"].keys() == record["uniform"].keys()
        for name, shares_LH in record["scores"].items():
            assert np.shape(shares_LH) == (2, 2)
            assert 0 <= np.min(shares_LH) <= np.max(shares_LH) <= 1
            if record["step"] == 0:
                assert np.allclose(shares_LH, record["uniform"][name], atol=0.02)
    assert records[0]["scores"] != records[-1]["scores"]

    with interrupted_after(3):
        assert train("cut", *flags) > 128
    with (tmp_path / "cut/heads.jsonl").open("a") as lines:
        lines.write(json.dumps(records[-1]) + "\n")  # a run killed at the end leaves such a line
    assert train("cut", *flags) == 0
    assert (tmp_path / "cut/heads.jsonl").read_text() == file.read_text()


def test_a_run_without_heads_has_no_log_of_them(train: Train, tmp_path: Path) -> None:
    assert train("run", "--backend=torch", "--n_layer=0") == 0
    assert not (tmp_path / "run/heads.jsonl").exists()
