"""Configurations are checked once, and the error says what to change."""

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.config import Config, ModelConfig, RunConfig, TrainingConfig, learning_rate_at
from nanogpt.errors import InputError
from nanogpt.presets import PRESETS
from nanogpt.weights import count_parameters, initial_weights, weight_shapes


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelConfig, {"n_embd": 130}, "n_embd 130 is not divisible by n_head 4"),
        (ModelConfig, {"dropout": 1.0}, "dropout 1.0 is out of range"),
        (ModelConfig, {"n_layer": -1}, "n_layer -1 is out of range"),
        (ModelConfig, {"block_size": 0}, "block_size 0 is out of range"),
        (ModelConfig, {"activation": "silu"}, "activation 'silu' is none of relu, gelu"),
        (TrainingConfig, {"learning_rate": float("nan")}, "learning_rate nan is out of range"),
        (TrainingConfig, {"beta2": 1.0}, "beta2 1.0 is out of range"),
        (TrainingConfig, {"min_lr": 1.0}, "min_lr 1 is above learning_rate 0.004"),
        (TrainingConfig, {"seed": 2**32}, "seed 4294967296 is too large"),
        (ModelConfig, {"n_layer": 2.0}, "n_layer 2.0 must be of type int"),
        (ModelConfig, {"n_layer": True}, "n_layer True must be of type int"),
        (ModelConfig, {"bias": 1}, "bias 1 must be of type bool"),
        (ModelConfig, {"n_embd": 10**400}, "n_embd is out of range"),
        (TrainingConfig, {"learning_rate": 10**400}, "learning_rate is out of range"),
        (TrainingConfig, {"learning_rate": "1e-3"}, "learning_rate '1e-3' must be of type float"),
        (TrainingConfig, {"max_iters": None}, "max_iters None must be of type int"),
        (RunConfig, {"data": ["a.txt"]}, r"data \['a.txt'\] must be of type str"),
        (RunConfig, {"dtype": "float16"}, "dtype 'float16' is none of float32, tf32, bfloat16"),
    ],
)
def test_a_bad_value_is_named(kind: type, values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**values)


def test_the_default_is_shakespeare() -> None:
    config = PRESETS["shakespeare"]
    assert config == Config()
    assert count_parameters(config.model) == 1_230_720
    assert all(preset.run.preset == name for name, preset in PRESETS.items())


def test_the_presets_of_gpt2_have_its_shape_and_its_parameters() -> None:
    """The counts are those of OpenAI's weights."""
    published = {
        "gpt2": (12, 124_439_808),
        "gpt2-medium": (16, 354_823_168),
        "gpt2-large": (20, 774_030_080),
        "gpt2-xl": (25, 1_557_611_200),
    }
    for name, (n_head, parameters) in published.items():
        model = replace(PRESETS[name].model, vocab_size=50_257)
        assert (model.block_size, model.n_head, model.activation) == (1024, n_head, "gelu")
        assert count_parameters(model) == parameters


@pytest.mark.parametrize(("schedule", "at_a_quarter"), [("linear", 0.775), ("cosine", 0.868198)])
def test_the_learning_rate_warms_up_and_ends_at_min_lr(
    schedule: Literal["linear", "cosine"], at_a_quarter: float
) -> None:
    config = TrainingConfig(max_iters=1010, warmup_iters=10, learning_rate=1.0, min_lr=0.1, schedule=schedule)
    assert learning_rate_at(0, config) == 0.1
    assert learning_rate_at(9, config) == learning_rate_at(10, config) == 1.0
    assert learning_rate_at(260, config) == pytest.approx(at_a_quarter)
    assert learning_rate_at(510, config) == pytest.approx(0.55)
    assert learning_rate_at(1010, config) == pytest.approx(0.1)
    assert learning_rate_at(5000, config) == pytest.approx(0.1)


@given(step=st.integers(0, 3000), warmup=st.integers(0, 500), iters=st.integers(1, 2000))
def test_the_learning_rate_stays_between_0_and_its_peak(step: int, warmup: int, iters: int) -> None:
    config = TrainingConfig(max_iters=iters, warmup_iters=warmup)
    rate = learning_rate_at(step, config)
    assert 0 <= rate <= config.learning_rate
    assert rate > 0 or step >= iters


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tie_weights", [False, True])
def test_initial_weights_are_gpt2s(bias: bool, tie_weights: bool) -> None:
    config = ModelConfig(bias=bias, tie_weights=tie_weights)
    weights = initial_weights(config, seed=1)
    assert {name: w.shape for name, w in weights.items()} == weight_shapes(config)
    assert ("head.kernel" in weights) is not tie_weights
    assert any(name.endswith(".bias") for name in weights) is bias
    deviations = {name: w.std() for name, w in weights.items() if w.ndim == 2}
    for name, deviation in deviations.items():
        expected = 0.02 / 12**0.5 if name.endswith(("output.kernel", "contract.kernel")) else 0.02
        assert deviation == pytest.approx(expected, rel=0.05), name
    again, other = initial_weights(config, seed=1), initial_weights(config, seed=2)
    assert all((again[name] == w).all() for name, w in weights.items())
    assert all((other[name] != w).any() for name, w in weights.items() if w.ndim == 2)
