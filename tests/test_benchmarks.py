"""The benchmarks run, at toy size, and write down what they measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_training_benchmark_measures_both_twins(tmp_path: Path) -> None:
    sizes = ["--batch_size=2", "--block_size=8", "--n_layer=1", "--n_embd=16", "--rounds=2", "--steps=1"]
    command = [sys.executable, "-m", "benchmarks.training", *sizes, f"--json={tmp_path / 'figures.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert list(results) == ["large products", "jax", "torch"]
    for result in results.values():
        assert len(result["seconds"]) == 2
        assert result["peak_mb"] > 0
