"""The benchmarks run at toy size and write down their figures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import frontier, race, road, temperature
from nanogpt.choice import load_backend
from nanogpt.config import ModelConfig
from nanogpt.language_model import mean_loss
from nanogpt.record import Evaluation
from nanogpt.state import TrainingState
from nanogpt.text.corpus import Splits
from nanogpt_torch.model import GPT, token_losses
from parity_tests.twins import random_tokens

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_benchmark_measures_every_item(tmp_path: Path) -> None:
    sizes = ["--batch_size=2", "--block_size=8", "--n_layer=1", "--n_embd=16", "--rounds=2", "--steps=1"]
    command = [sys.executable, "-m", "benchmarks", *sizes, f"--json={tmp_path / 'figures.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert {item: list(measured) for item, measured in results.items()} == {
        "limits": ["large matmuls", "memory copy"],
        "training": ["large matmuls", "jax", "jax, Muon", "torch", "torch, Muon"],
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


def test_entropy_of_even_chances_is_the_logarithm_of_their_number() -> None:
    assert temperature.entropy(np.zeros((2, 3, 8)), 0.5) == pytest.approx(3)
    # Two tokens are possible, and at temperature 1 the first is e times as likely as the second.
    logits_BTV = np.array([[[1.0, 0.0, -np.inf]]])
    share = np.exp(2) / (1 + np.exp(2))
    expected = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    assert temperature.entropy(logits_BTV, 0.5) == pytest.approx(expected)


def test_words_cut_by_the_ends_of_a_text_are_not_counted() -> None:
    texts = ["xx the king! y", "ab Speak, kong cd"]
    assert temperature.share_known(texts, {"the", "king", "speak"}) == 3 / 4


@pytest.mark.slow
def test_the_road_trains_every_rung(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a line of text\n" * 300, encoding="utf-8")
    flags = ["--max_iters=2", "--batch_size=1", f"--data={tmp_path / 'text.txt'}", f"--out_dir={tmp_path}"]
    subprocess.run([sys.executable, "-m", "benchmarks.road", *flags], cwd=ROOT, check=True)
    lines = (tmp_path / "road.md").read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {rung.name}" for rung in road.RUNGS]
    assert "six blocks" in (tmp_path / "road.svg").read_text(encoding="utf-8")


def test_the_frontier_tells_how_far_seeds_lie_apart_and_which_reached_the_target() -> None:
    def run(*losses: float) -> list[Evaluation]:
        return [
            Evaluation(step=10 * n, train_loss=loss, val_loss=loss, sample="")
            for n, loss in enumerate(losses)
        ]

    cells = frontier.row("reference", {1: run(4, 1.46, 1.44), 2: run(4, 1.5, 1.48)})
    assert cells[2:] == ["20", "1, 2", *["1.4600 ± 0.0283 (1.4400 to 1.4800)"] * 2, "10, not reached"]
    assert frontier.spread([1.5]) == "1.5000"


@pytest.mark.slow
def test_the_frontier_trains_every_recipe_with_every_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("a line of text\n" * 300, encoding="utf-8")
    recipes = {"one": {"max_iters": 1, "batch_size": 1}, "two": {"max_iters": 2, "batch_size": 2}}
    monkeypatch.setattr(frontier, "RECIPES", recipes)
    points = [[0, 1.0, 4.0], [10, 2.0, 3.0]]
    (tmp_path / "race.json").write_text(json.dumps({"ours, seed 1": points, "nanoGPT": points}))
    flags = [f"--data={tmp_path / 'text.txt'}", f"--out_dir={tmp_path}", "--seeds", "1", "2"]
    flags.append(f"--race={tmp_path / 'race.json'}")
    monkeypatch.setattr(sys, "argv", ["frontier", "--recipes", "one", "two", *flags])
    interrupted = tmp_path / "two_3" / "metrics.jsonl"
    interrupted.parent.mkdir()
    interrupted.touch()
    frontier.main()
    table = (tmp_path / "frontier.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    assert "| two | `--max_iters 2 --batch_size 2` | 2 | 1, 2 |" in table
    drawing = (tmp_path / "frontier.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {label}: " in drawing for label in ("one", "two", "ours", "nanoGPT"))
    first, second = (tmp_path / run / "metrics.jsonl" for run in ("one_1", "one_2"))
    assert first.read_text(encoding="utf-8") != second.read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["frontier", "--recipes", "three", *flags])
    with pytest.raises(SystemExit, match="no recipe 'three': choose from one, two"):
        frontier.main()


class Peer(torch.nn.Module):
    """Our model with the signature of nanoGPT's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gpt = GPT(config)

    def forward(self, tokens_BT: torch.Tensor, targets_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits_BTV = self.gpt(tokens_BT)
        return logits_BTV, token_losses(logits_BTV, targets_BT).mean()


def test_the_race_measures_a_peers_loss_as_ours_is_measured() -> None:
    config = ModelConfig(vocab_size=7, block_size=10, n_layer=1, n_head=1, n_embd=8)
    tokens_N = random_tokens(config, 1234)
    splits, peer = Splits(tokens_N, tokens_N, config.block_size), Peer(config)
    backend = load_backend("torch")(config, None, TrainingState.initial(config, 1), device="cpu")
    peer.gpt.load_state_dict(backend.model.state_dict())
    expected = mean_loss(backend, tokens_N, config.block_size)
    assert race.exact_loss(peer, splits) == pytest.approx(expected, abs=1e-6)
    assert peer.training


def test_the_race_tells_the_first_time_at_the_target_or_the_last_loss() -> None:
    points = [(0, 1.0, 4.0), (10, 20.4, 1.5), (20, 40.0, 1.4), (30, 60.0, 1.45)]
    assert race.reached(points, 1.47) == "1.47 after 40 s and 20 iterations"
    assert race.reached(points, 1.3) == "1.4500 after 60 s and 30 iterations"
