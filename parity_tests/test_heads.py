"""Outputs of single heads, and the loss without one, against float64."""

from dataclasses import replace

import numpy as np
import pytest

from nanogpt.heads.ablation import ablate_heads
from parity_tests import reference
from parity_tests.report import Report
from parity_tests.test_model import CONFIGS
from parity_tests.twins import Twins, thorough_except


@pytest.mark.parametrize("name", thorough_except(["small", "gpt2", "default"], "small"))
def test_head_outputs_equal_the_reference(name: str, device: str, report: Report) -> None:
    twins = Twins.of(CONFIGS[name], None, device)
    tokens_BT = twins.tokens(2, twins.config.block_size)
    expected = []

    def note(layer: int, heads_BTHD: np.ndarray) -> np.ndarray:
        expected.append(heads_BTHD.transpose(0, 2, 1, 3))
        return heads_BTHD

    reference.logits(twins.initial.weights, twins.config, tokens_BT, replace_heads=note)
    for backend in (twins.jax, twins.torch):
        actual_LBHTD = backend.head_outputs(tokens_BT)
        report.compare("head outputs", f"{backend.name} against float64", actual_LBHTD, expected)


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("name", thorough_except(["small", "gpt2"], "small"))
def test_the_loss_without_a_head_equals_the_reference(
    name: str, backend: str, device: str, report: Report
) -> None:
    """Editing the weights has the same effect as replacing the head's output by its mean."""
    config = replace(CONFIGS[name], block_size=8)
    twins = Twins.of(config, None, device)
    weights, tokens_WT1 = twins.initial.weights, twins.tokens(5, 9)
    losses_W, increases_WLH = ablate_heads(getattr(twins, backend), config, weights, tokens_WT1)

    def expected(removed: tuple[int, int] | None) -> np.ndarray:
        def replace_heads(layer: int, heads_BTHD: np.ndarray) -> np.ndarray:
            if removed and layer == removed[0]:
                heads_BTHD = heads_BTHD.copy()
                heads_BTHD[:, :, removed[1]] = heads_BTHD[:, :, removed[1]].mean(axis=(0, 1))
            return heads_BTHD

        logits_WTV = reference.logits(weights, config, tokens_WT1[:, :-1], replace_heads=replace_heads)
        return reference.losses(logits_WTV, tokens_WT1[:, 1:]).mean(axis=1)

    report.compare("loss", f"{backend}, by window", losses_W, expected(None))
    for layer, head in np.ndindex(config.n_layer, config.n_head):
        label = f"{backend} without head {layer}.{head}"
        report.compare("loss", label, losses_W + increases_WLH[:, layer, head], expected((layer, head)))
    assert np.abs(increases_WLH).max(axis=0).min() > 1e-3, "a head makes no difference"
