"""A thousand steps, dropout on: the losses do not tell which backend ran, or that they took turns."""

import pytest

from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.text.corpus import Splits, load_corpus
from nanogpt.text.tokenizer import CharTokenizer
from parity_tests.curves import PAIRS, RUNS, Losses, Recipe, gap, limit

pytestmark = [pytest.mark.thorough, pytest.mark.slow]


@pytest.fixture(scope="module")
def losses(device: str) -> Losses:
    text = load_corpus("python").text[:200_000]
    tokenizer = CharTokenizer.from_text(text)
    model = ModelConfig(tokenizer.vocab_size, block_size=32, n_layer=2, n_embd=32, dropout=0.1)
    splits_N = tokenizer.encode(text)
    splits = Splits(splits_N[:180_000], splits_N[180_000:], model.block_size)
    recipe = Recipe(model, TrainingConfig(batch_size=8, max_iters=2_000), splits, steps=1_000, device=device)
    return {name: recipe.run(name) for name in RUNS}


def test_learned(losses: Losses) -> None:
    for name in RUNS:
        assert losses[name][0] > 4
        assert losses[name][-1] < 3, name


@pytest.mark.parametrize("pair", PAIRS, ids=" | ".join)
def test_backends_stay_as_near_as_rounding_lets_them(losses: Losses, pair: tuple[str, str]) -> None:
    assert 0 < gap(losses, pair) <= limit(losses)
