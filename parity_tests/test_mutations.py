"""A mistake made on purpose in either twin is noticed, wherever it is made."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
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
from nanogpt.state import TrainingState
from parity_tests.test_training import TRAINING, batches
from parity_tests.twins import Report, Twins, compare_models, compare_states

pytestmark = pytest.mark.thorough

CONFIG = ModelConfig(31, 9, 2, 2, 24, dropout=0, bias=True, activation="gelu", tie_weights=True)
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
            return {"jax": jax.nn.softmax, "torch": lambda x: torch.softmax(x, -1)}[twin](
                xp.where(mask_TS, scores_BHTS, -math.inf)
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


def without_rescaling(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dropout = TWINS[twin].dropout
    method = {"jax": "__call__", "torch": "forward"}[twin]
    plain = getattr(dropout.Dropout, method)

    def act(self: Any, x: Any, keys_B2: Any = None, index: Any = None) -> Any:
        return plain(self, x, keys_B2, index) * (1 if keys_B2 is None else 1 - self.rate)

    monkeypatch.setattr(dropout.Dropout, method, act)


def with_the_keys_of_another_layer(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TWINS[twin].model
    fold_in = model.fold_in
    monkeypatch.setattr(model, "fold_in", lambda keys_B2, number: fold_in(keys_B2, number + 1))


def with_another_threshold(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dropout = TWINS[twin].dropout
    threshold = dropout.keep_threshold
    monkeypatch.setattr(dropout, "keep_threshold", lambda rate: threshold(1 - rate))


DROPOUT: dict[str, Patch] = {
    "not scaled up": without_rescaling,
    "keys of another layer": with_the_keys_of_another_layer,
    "keeps what it should drop": with_another_threshold,
}


@pytest.mark.parametrize("mutation", DROPOUT)
@pytest.mark.parametrize("twin", ["jax", "torch"])
def test_a_mistake_in_dropout_is_noticed(
    twin: str, mutation: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    DROPOUT[mutation](twin, monkeypatch)
    twins = Twins.of(replace(CONFIG, dropout=0.2), TRAINING, device, kernels="plain")
    tokens_KBT1, keys_KB2, _ = batches(twins, 0, 1)
    losses = {b.name: b.gradients(tokens_KBT1[0], keys_KB2[0])[0] for b in (twins.jax, twins.torch)}
    with pytest.raises(AssertionError, match="tolerance"):
        Report().compare("loss", mutation, losses["torch"], losses["jax"])


def change_training(**values: float) -> Patch:
    def patch(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
        optimizer = TWINS[twin].backend.Optimizer
        monkeypatch.setattr(
            TWINS[twin].backend,
            "Optimizer",
            lambda config, *parameters: optimizer(replace(config, **values), *parameters),
        )

    return patch


def decay_everything(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if twin == "jax":

        def update(self: Any, weights: Any, moments: Any, gradients: Any, rate: Any) -> Any:
            gradients, _ = self.clip.update(gradients, optax.EmptyState())
            directions, moments = self.adam.update(gradients, moments)
            moved = jax.tree.map(lambda w, d: w - rate * (d + self.weight_decay * w), weights, directions)
            return moved, moments

        monkeypatch.setattr(nanogpt_jax.optimizer.Optimizer, "update", update)
        return
    adamw = torch.optim.AdamW

    def of_one_decay(groups: list[dict[str, Any]], **options: Any) -> torch.optim.AdamW:
        return adamw([group | {"weight_decay": TRAINING.weight_decay} for group in groups], **options)

    monkeypatch.setattr(torch.optim, "AdamW", of_one_decay)


OPTIMIZER: dict[str, Patch] = {
    "beta1": change_training(beta1=0.91),
    "beta2": change_training(beta2=0.98),
    "no weight decay": change_training(weight_decay=0.0),
    "no clipping": change_training(grad_clip=0.0),
    "decay of biases and scales": decay_everything,
}


def two_steps(training: TrainingConfig, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the twins after two steps from one state: the second one tells the moments of the first."""
    monkeypatch.setattr("parity_tests.test_training.TRAINING", training)
    twins = Twins.of(CONFIG, training, device, kernels="plain")
    states: dict[str, TrainingState] = {}
    for backend in (twins.jax, twins.torch):
        backend.train(*batches(twins, 0, 2))()
        states[backend.name] = backend.state()
    rows = ("weights after 50 steps", "moments after 50 steps")
    compare_states(rows, "after two steps", states["torch"], states["jax"], Report())


# Gradients are above this norm, so that clipping acts.
CLIPPED = replace(TRAINING, grad_clip=1e-2)


@pytest.mark.parametrize("mutation", OPTIMIZER)
@pytest.mark.parametrize("twin", ["jax", "torch"])
def test_a_mistake_in_the_optimizer_is_noticed(
    twin: str, mutation: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    OPTIMIZER[mutation](twin, monkeypatch)
    with pytest.raises(AssertionError, match="tolerance"):
        two_steps(CLIPPED, device, monkeypatch)


def test_without_a_mistake_nothing_is_noticed(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what the tests above expect to fail passes as it is."""
    for scale in (1.0, 1e-2):
        compare_models(Twins.of(CONFIG, TrainingConfig(), device, scale, kernels="plain"), Report())
    twins = Twins.of(replace(CONFIG, dropout=0.2), TRAINING, device, kernels="plain")
    tokens_KBT1, keys_KB2, _ = batches(twins, 0, 1)
    losses = [b.gradients(tokens_KBT1[0], keys_KB2[0])[0] for b in (twins.jax, twins.torch)]
    Report().compare("loss", "no mistake", *losses)
    two_steps(CLIPPED, device, monkeypatch)
