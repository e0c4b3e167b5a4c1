"""The command for a GPU, at toy size on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import PROGRAMS
from benchmarks.gpu_items import waves

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.long


def test_items_are_measured_beside_their_prediction_whatever_becomes_of_others(tmp_path: Path) -> None:
    predicted = {"training step, bfloat16": {"roofline seconds": 0.00169, "kernels": 493}}
    (tmp_path / "predicted.json").write_text(json.dumps(predicted), encoding="utf-8")
    measured, failing = "default step, jax, bfloat16", "default step, nanoGPT, compiled"
    command = [sys.executable, "-m", "benchmarks.gpu", f"--only=^({measured}|{failing})$"]
    command += [f"--json={tmp_path}/gpu.json", f"--predicted={tmp_path}/predicted.json"]
    command += ["--nanogpt=there/is/none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert figures.keys() == {measured, failing}
    assert figures[measured]["ms a step"] > 0
    assert figures[measured]["same bits twice"]
    assert (figures[measured]["at least, ms"], figures[measured]["predicted"]) == (pytest.approx(1.69), 493)
    assert "FileNotFoundError" in figures[failing]["failed"][-1]
    assert "1.69" in done.stdout


def test_predictions_are_for_items_that_there_are() -> None:
    assert PROGRAMS.keys() <= {name for wave in waves() for name in wave}
