"""The command for a GPU, at toy size on the CPU."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import PROGRAMS
from benchmarks.gpu_items import waves

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.long


@pytest.mark.slow
def test_items_are_measured_beside_their_prediction_whatever_becomes_of_others(tmp_path: Path) -> None:
    predicted = {"training step, bfloat16": {"roofline seconds": 0.00169, "kernels": 493}}
    (tmp_path / "predicted.json").write_text(json.dumps(predicted), encoding="utf-8")
    step, failing = "default step, jax, bfloat16", "default step, nanoGPT, compiled"
    attentions = [f"attention of the reference shape, {name}, ms" for name in ("jax", "torch")]
    names = ["machine", step, failing, "generation, jax, batch 64", *attentions]
    command = [sys.executable, "-m", "benchmarks.gpu", f"--only=^({'|'.join(names)})$"]
    command += [f"--json={tmp_path}/gpu.json", f"--predicted={tmp_path}/predicted.json"]
    command += ["--nanogpt=there/is/none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert figures.keys() == set(names)
    assert figures["machine"]["python"] == platform.python_version()
    assert figures[step]["tokens/s"] > 0
    assert 3 < figures[step]["loss"] < 5  # chance is log(65) = 4.17
    assert figures[step]["same bits twice"]
    assert (figures[step]["at least, ms"], figures[step]["predicted"]) == (pytest.approx(1.69), 493)
    assert figures["generation, jax, batch 64"]["tokens/s"] > 0
    for name, kinds in zip(attentions, ({"plain"}, {"plain", "fused"}), strict=True):
        assert figures[name].keys() == kinds | {"ready after, s"}
        assert all(milliseconds > 0 for milliseconds in figures[name].values())
    assert "FileNotFoundError" in figures[failing]["failed"][-1]
    assert "1.69" in done.stdout


def test_predictions_are_for_items_that_there_are() -> None:
    assert PROGRAMS.keys() <= {name for wave in waves() for name in wave}
