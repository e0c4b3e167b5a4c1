"""One forward and one backward pass: everything the twins compute, against each other and against float64."""

from dataclasses import replace

import numpy as np
import pytest

from nanogpt.config import ModelConfig, TrainingConfig
from parity_tests import reference
from parity_tests.report import KernelsName, Report, relative_error
from parity_tests.twins import Twins, backend_of, compare_models, random_tokens, thorough_except

CONFIGS = {
    "default": ModelConfig(vocab_size=65, dropout=0),
    "small": ModelConfig(vocab_size=11, block_size=16, n_layer=2, n_embd=32, dropout=0),
    "gpt2": ModelConfig(31, 9, 3, 2, 24, dropout=0, bias=True, activation="gelu", tie_weights=True),
    "biases": ModelConfig(vocab_size=7, block_size=5, n_layer=1, n_head=1, n_embd=8, dropout=0, bias=True),
    "tied": ModelConfig(vocab_size=50, block_size=33, n_layer=2, n_embd=48, dropout=0, tie_weights=True),
    "gelu": ModelConfig(vocab_size=20, block_size=12, n_layer=1, n_head=8, dropout=0, activation="gelu"),
    "bigram": ModelConfig(vocab_size=65, block_size=8, n_layer=0, n_embd=32, dropout=0),
}
# The scale of the embeddings; at the smaller one LayerNorm's epsilon decides, on any device alike.
SCALES = [pytest.param(1.0, id=""), pytest.param(1e-2, id="low variance", marks=pytest.mark.thorough)]
UNUSED_KEYS = np.zeros((2, 2), np.uint32)  # for two rows at dropout 0


@pytest.mark.parametrize("embedding_scale", SCALES)
@pytest.mark.parametrize("name", thorough_except(CONFIGS, "default", "gpt2"))
def test_twins_compute_the_same(name: str, embedding_scale: float, device: str, report: Report) -> None:
    compare_models(Twins.of(CONFIGS[name], TrainingConfig(), device, embedding_scale), report)


# The other configurations are too small for any kernel but the definition.
@pytest.mark.parametrize("name", thorough_except(["default", "tied"], "default"))
def test_twins_of_plain_kernels_compute_the_same(name: str, device: str, report: Report) -> None:
    compare_models(Twins.of(CONFIGS[name], TrainingConfig(), device, kernels="plain"), report)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["gpt2", "gelu"])
def test_gradients_are_those_of_the_judge(name: str, device: str, report: Report) -> None:
    """Along each weight's own gradient the float64 loss rises as steeply as both twins say."""
    twins = Twins.of(CONFIGS[name], TrainingConfig(), device)
    weights = {n: w.astype(np.float64) for n, w in twins.initial.weights.items()}
    tokens_BT1 = twins.tokens(2, twins.config.block_size + 1)
    for backend in (twins.jax, twins.torch):
        _, gradients = backend.gradients(tokens_BT1, UNUSED_KEYS)
        for weight, gradient in gradients.items():
            steepness = np.linalg.norm(gradient.astype(np.float64))
            step = 1e-5 * gradient / steepness
            ahead, behind = (
                reference.loss(weights | {weight: weights[weight] + sign * step}, twins.config, tokens_BT1)
                for sign in (1, -1)
            )
            label = f"{weight}, {backend.name} against float64"
            report.compare("gradients", label, steepness, (ahead - behind) / 2e-5)


@pytest.mark.parametrize("embedding_scale", SCALES)
@pytest.mark.parametrize("name", thorough_except(CONFIGS, "gpt2", long=True))
def test_bfloat16_is_near_float64(name: str, embedding_scale: float, device: str, report: Report) -> None:
    twins = Twins.of(CONFIGS[name], TrainingConfig(), device, embedding_scale)
    weights, config = twins.initial.weights, twins.config
    tokens_BT1 = twins.tokens(2, config.block_size + 1)
    judged = reference.logits(weights, config, tokens_BT1[:, :-1])
    # Not for ReLU, across whose kink bfloat16 pushes many a hidden unit.
    expected = twins.jax.gradients(tokens_BT1, UNUSED_KEYS)[1] if config.activation == "gelu" else {}
    for of in (twins.jax, twins.torch):
        model = backend_of(
            of.name, config, TrainingConfig(), twins.initial, device=of.device, dtype="bfloat16"
        )
        logits_BTV = model.logits(tokens_BT1[:, :-1])
        report.compare("logits, bfloat16", f"{of.name} against float64", logits_BTV, judged)
        assert relative_error(logits_BTV, judged) > 1e-3, "this was computed in float32"
        loss, gradients = model.gradients(tokens_BT1, UNUSED_KEYS)
        judged_loss = reference.loss(weights, config, tokens_BT1)
        report.compare("loss, bfloat16", f"{of.name} against float64", loss, judged_loss)
        for weight, wanted in expected.items():
            label = f"{weight}, {of.name} against float32"
            report.compare("gradients, bfloat16", label, gradients[weight], wanted)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_attention_looks_back_and_sums_to_one(backend: str, device: str) -> None:
    twins = Twins.of(CONFIGS["gpt2"], TrainingConfig(), device)
    weights_LBHTS = getattr(twins, backend).attention(twins.tokens(2, 9))
    assert weights_LBHTS.shape == (3, 2, 2, 9, 9)
    assert (weights_LBHTS >= 0).all()
    np.testing.assert_allclose(weights_LBHTS.sum(-1), 1, atol=1e-6)
    assert (np.triu(weights_LBHTS, 1) == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", ["plain", "fast"])
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_future_changes_nothing(backend: str, kernels: KernelsName, dtype: str, device: str) -> None:
    config = replace(CONFIGS["small"], block_size=40)
    twins = Twins.of(config, None, device, kernels=kernels, dtype=dtype)
    model, tokens_BT = getattr(twins, backend), random_tokens(config, 2, 40)
    before = model.logits(tokens_BT)
    for t in (1, 7, 21, 39):
        changed = tokens_BT.copy()
        changed[:, t] = (changed[:, t] + 1) % config.vocab_size
        after = model.logits(changed)
        assert (after[:, :t] == before[:, :t]).all()
        assert (after[:, t:] != before[:, t:]).any()
