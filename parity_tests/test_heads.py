"""What single heads put out, and what the model loses without one: against float64."""

from dataclasses import replace

import numpy as np
import pytest

from nanogpt.heads.ablation import ablation
from parity_tests import reference
from parity_tests.test_model import CONFIGS
from parity_tests.twins import Report, Twins, thorough_except


@pytest.mark.parametrize("name", thorough_except(["small", "gpt2", "default"], "small"))
def test_head_outputs_are_those_of_the_judge(name: str, device: str, report: Report) -> None:
    twins = Twins.of(CONFIGS[name], None, device)
    tokens_BT = twins.tokens(2, twins.config.block_size)
    judged = []

    def note(layer: int, heads_BTHD: np.ndarray) -> np.ndarray:
        judged.append(heads_BTHD.transpose(0, 2, 1, 3))
        return heads_BTHD

    reference.logits(twins.initial.weights, twins.config, tokens_BT, replace_heads=note)
    for backend in (twins.jax, twins.torch):
        actual_LBHTD = backend.head_outputs(tokens_BT)
        report.compare("head outputs", f"{backend.name} against float64", actual_LBHTD, judged)


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("name", thorough_except(["small", "gpt2"], "small"))
def test_a_loss_without_a_head_is_that_of_the_judge(
    name: str, backend: str, device: str, report: Report
) -> None:
    """Editing weights does what replacing the head's output by its mean does."""
    config = replace(CONFIGS[name], block_size=8)
    twins = Twins.of(config, None, device)
    weights, tokens_WT1 = twins.initial.weights, twins.tokens(5, 9)
    losses_W, rises_WLH = ablation(getattr(twins, backend), config, weights, tokens_WT1)

    def judged(removed: tuple[int, int] | None) -> np.ndarray:
        def replace_heads(layer: int, heads_BTHD: np.ndarray) -> np.ndarray:
            if removed and layer == removed[0]:
                heads_BTHD = heads_BTHD.copy()
                heads_BTHD[:, :, removed[1]] = heads_BTHD[:, :, removed[1]].mean(axis=(0, 1))
            return heads_BTHD

        logits_WTV = reference.logits(weights, config, tokens_WT1[:, :-1], replace_heads=replace_heads)
        return reference.losses(logits_WTV, tokens_WT1[:, 1:]).mean(axis=1)

    report.compare("loss", f"{backend}, by window", losses_W, judged(None))
    for layer, head in np.ndindex(config.n_layer, config.n_head):
        label = f"{backend} without head {layer}.{head}"
        report.compare("loss", label, losses_W + rises_WLH[:, layer, head], judged((layer, head)))
    assert np.abs(rises_WLH).max(axis=0).min() > 1e-3, "a head makes no difference"
