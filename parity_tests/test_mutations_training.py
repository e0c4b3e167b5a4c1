"""A mistake made on purpose in either twin is noticed, in dropout and optimizer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch

import nanogpt_jax.dropout
import nanogpt_jax.model
import nanogpt_jax.optimizer
import nanogpt_torch.dropout
import nanogpt_torch.model
import nanogpt_torch.optimizer
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.state import TrainingState
from parity_tests.report import Report
from parity_tests.test_training import TRAINING, batches
from parity_tests.twins import Twins, compare_states

pytestmark = pytest.mark.thorough

CONFIG = ModelConfig(31, 9, 1, 2, 24, dropout=0, bias=True, activation="gelu", tie_weights=True)
TWINS: dict[str, Any] = {"jax": nanogpt_jax, "torch": nanogpt_torch}
Patch = Callable[[str, pytest.MonkeyPatch], None]


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


def compare_losses_with_dropout(device: str) -> None:
    twins = Twins.of(replace(CONFIG, dropout=0.2), TRAINING, device, kernels="plain")
    tokens_KBT1, keys_KB2, _ = batches(twins, 0, 1)
    losses = [backend.gradients(tokens_KBT1[0], keys_KB2[0])[0] for backend in (twins.jax, twins.torch)]
    Report().compare("loss", "with dropout", *losses)


@pytest.mark.parametrize("mutation", DROPOUT)
@pytest.mark.parametrize("twin", ["jax", "torch"])
def test_a_mistake_in_dropout_is_noticed(
    twin: str, mutation: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    DROPOUT[mutation](twin, monkeypatch)
    with pytest.raises(AssertionError, match="tolerance"):
        compare_losses_with_dropout(device)


def change_training(**values: float) -> Patch:
    def patch(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
        optimizer = TWINS[twin].backend.Optimizer
        monkeypatch.setattr(
            TWINS[twin].backend,
            "Optimizer",
            lambda config, *parameters: optimizer(replace(config, **values), *parameters),
        )

    return patch


def change_muon(name: str, value: Any) -> Patch:
    def patch(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TWINS[twin].optimizer, name, value)

    return patch


def decay_everything(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if twin == "jax":
        original = nanogpt_jax.optimizer.Optimizer.update

        def update(self: Any, weights: Any, moments: Any, gradients: Any, rate: Any) -> Any:
            moved, moments = original(self, weights, moments, gradients, rate)
            lost = {name: rate * self.weight_decay * w if w.ndim == 1 else 0 for name, w in weights.items()}
            return jax.tree.map(jnp.subtract, moved, lost), moments

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
    "Muon's rate": change_muon("RATE", 4.9),
    "Muon's momentum": change_muon("MOMENTUM", 0.94),
    "Muon's polynomial": change_muon("POLYNOMIAL", (3.4445, -4.7750, 2.04)),
    "Muon's steps": change_muon("STEPS", 6),
    "query, key and value as one": change_muon("pieces", lambda name: 1),
    "one size of moves": change_muon("scale", lambda n_in, n_out: 1.0),
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
    compare_losses_with_dropout(device)
    two_steps(CLIPPED, device, monkeypatch)
