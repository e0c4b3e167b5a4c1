"""The benchmarks run, at toy size, and write down what they measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_benchmark_measures_every_item(tmp_path: Path) -> None:
    sizes = ["--batch_size=2", "--block_size=8", "--n_layer=1", "--n_embd=16", "--rounds=2", "--steps=1"]
    command = [sys.executable, "-m", "benchmarks", *sizes, f"--json={tmp_path / 'figures.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert {item: list(measured) for item, measured in results.items()} == {
        "limits": ["large products", "memory copy"],
        "training": ["large products", "jax", "torch"],
        "loop jax": ["bare", "loop"],
        "loop torch": ["bare", "loop"],
        "evaluation": ["jax", "torch"],
        "generation inside": ["jax", "torch"],
        "generation past": ["jax", "torch"],
        "checkpoint": ["save", "load"],
        "start": ["import nanogpt", "sample.py, 500 tokens, jax", "sample.py, 500 tokens, torch"],
    }
    for measured in results.values():
        for result in measured.values():
            assert len(result["seconds"]) == 2
            assert min(result["seconds"]) > 0
            assert len(result["first"]) == 2
            assert result["peak_mb"] > 0
