"""A mistake made on purpose in either twin is noticed, in the model."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from torch.nn import functional as F

import nanogpt_jax.dropout
import nanogpt_jax.model
import nanogpt_jax.optimizer
import nanogpt_torch.dropout
import nanogpt_torch.model
import nanogpt_torch.optimizer
from nanogpt.config import ModelConfig, TrainingConfig
from parity_tests.report import Report
from parity_tests.twins import Twins, compare_models

pytestmark = pytest.mark.thorough

CONFIG = ModelConfig(31, 9, 1, 2, 24, dropout=0, bias=True, activation="gelu", tie_weights=True)
TWINS: dict[str, Any] = {"jax": nanogpt_jax, "torch": nanogpt_torch}
Patch = Callable[[str, pytest.MonkeyPatch], None]


def masked_at(diagonal: int, scaled: bool = True) -> Patch:
    """Attention weights with another mask, or without the division by sqrt(D)."""

    def patch(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
        module, xp = (TWINS[twin].model, {"jax": jnp, "torch": torch}[twin])

        def attention_weights(query_BHTD: Any, key_BHSD: Any, first: Any = 0) -> Any:
            (T, D), S = query_BHTD.shape[-2:], key_BHSD.shape[-2]
            scores_BHTS = query_BHTD @ key_BHSD.swapaxes(-2, -1) / (math.sqrt(D) if scaled else 1)
            mask_TS = xp.arange(S) <= first + xp.arange(T)[:, None] + diagonal
            return {"jax": jax.nn.softmax, "torch": torch.softmax}[twin](
                xp.where(mask_TS, scores_BHTS, -math.inf), -1
            )

        monkeypatch.setattr(module, "attention_weights", attention_weights)

    return patch


def swap_query_and_key(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = TWINS[twin].model.MultiHeadAttention
    project = attention.project

    def swapped(self: Any, x_BTC: Any) -> Any:
        query_BHTD, key_BHSD, value_BHSD = project(self, x_BTC)
        return key_BHSD, query_BHTD, value_BHSD

    monkeypatch.setattr(attention, "project", swapped)


def take_exact_gelu(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, exact = {"jax": (nnx, False), "torch": (F, "none")}[twin]
    gelu = place.gelu
    monkeypatch.setattr(place, "gelu", lambda x, approximate: gelu(x, approximate=exact))


def take_another_epsilon(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = TWINS[twin].model.layer_norm

    def layer_norm(*arguments: Any) -> Any:
        layer = make(*arguments)
        setattr(layer, {"jax": "epsilon", "torch": "eps"}[twin], 1e-6)
        return layer

    monkeypatch.setattr(TWINS[twin].model, "layer_norm", layer_norm)


def forget_the_last_target(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = TWINS[twin].backend.token_losses
    monkeypatch.setattr(
        TWINS[twin].backend,
        "token_losses",
        lambda logits_BTV, targets_BT: losses(logits_BTV[:, :-1], targets_BT[:, :-1]),
    )


FORWARD: dict[str, Patch] = {
    "LayerNorm epsilon": take_another_epsilon,
    "GELU form": take_exact_gelu,
    "mask off by one": masked_at(diagonal=1),
    "no 1/sqrt(d_k)": masked_at(diagonal=0, scaled=False),
    "swapped query and key": swap_query_and_key,
    "loss without the last target": forget_the_last_target,
}


@pytest.mark.parametrize("mutation", FORWARD)
@pytest.mark.parametrize("twin", ["jax", "torch"])
def test_a_mistake_in_the_model_is_noticed(
    twin: str, mutation: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At the smaller scale LayerNorm's epsilon matters.
    scale = 1e-2 if mutation == "LayerNorm epsilon" else 1.0
    FORWARD[mutation](twin, monkeypatch)
    twins = Twins.of(CONFIG, TrainingConfig(), device, scale, kernels="plain")
    with pytest.raises(AssertionError, match=r"tolerance|shape"):
        compare_models(twins, Report())


@pytest.mark.parametrize("twin", ["jax", "torch"])
def test_a_transposed_kernel_is_noticed(twin: str, device: str) -> None:
    twins = Twins.of(CONFIG, TrainingConfig(), device)
    name = "blocks.0.attention.output.kernel"
    weights = twins.initial.weights | {name: twins.initial.weights[name].T.copy()}
    getattr(twins, twin).load(replace(twins.initial, weights=weights))
    with pytest.raises(AssertionError, match="tolerance"):
        compare_models(twins, Report())


@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_without_a_mistake_nothing_is_noticed(scale: float, device: str) -> None:
    """The control: what the tests above expect to fail passes as it is."""
    compare_models(Twins.of(CONFIG, TrainingConfig(), device, scale, kernels="plain"), Report())
