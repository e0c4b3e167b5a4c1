"""Micro-batches and --remat: the same numbers in less memory."""

from typing import Any

import numpy as np
import pytest
import torch

import nanogpt_jax.kernels
import nanogpt_torch.kernels
from nanogpt.backend import Backend
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.randomness import dropout_keys
from parity_tests.devices import device_of
from parity_tests.report import Report
from parity_tests.twins import backend_of, generic_state, random_tokens, thorough_except

B, T, V = 6, 16, 40
TRAINING = TrainingConfig(batch_size=B)
CONFIGS = {
    "gpt2": ModelConfig(V, T, 3, 2, 24, 0.1, 0.2, bias=True, activation="gelu", tie_weights=True),
    "untied": ModelConfig(V, T, 2, 2, 24, 0.2, 0.0, activation="gelu"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "micro-batches": {"micro_batch_size": 2},
    "remat": {"remat": True, "micro_batch_size": B},
    "both": {"remat": True, "micro_batch_size": 3},
}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of a third of a window at once."""
    for kernels in (nanogpt_jax.kernels, nanogpt_torch.kernels):
        monkeypatch.setattr(kernels, "LOGITS_AT_ONCE", V * T // 3)


def measured(backend: Backend) -> tuple[float, dict[str, np.ndarray], np.ndarray]:
    """Mean loss and gradients with dropout, and the losses of every token without."""
    tokens_BT1 = random_tokens(backend.config, B, T + 1)
    return *backend.gradients(tokens_BT1, dropout_keys(1, 2, np.arange(B))), backend.losses(tokens_BT1)


@pytest.mark.parametrize("dtype", thorough_except(["float32", "bfloat16"], "float32", long=True))
@pytest.mark.parametrize("options", thorough_except(OPTIONS, "both", long=True))
@pytest.mark.parametrize("config", thorough_except(CONFIGS, "gpt2", long=True))
@pytest.mark.parametrize("name", ["jax", "torch"])
def test_less_memory_computes_the_same(
    name: str, config: str, options: str, dtype: str, device: str, report: Report
) -> None:
    arguments = (CONFIGS[config], TRAINING, generic_state(CONFIGS[config]))
    plain = {"device": device_of(name, device), "dtype": dtype, "micro_batch_size": B}
    loss, gradients, losses_BT = measured(backend_of(name, *arguments, **plain | OPTIONS[options]))
    expected_loss, expected, expected_BT = measured(backend_of(name, *arguments, **plain))
    suffix = "" if dtype == "float32" else f", {dtype}"
    report.compare("loss" + suffix, f"{name}, {options}", loss, expected_loss)
    report.compare("loss" + suffix, f"{name}, {options}, each token's", losses_BT, expected_BT)
    for weight, value in expected.items():
        report.compare("gradients" + suffix, f"{name}, {weight}, {options}", gradients[weight], value)


def bytes_kept(name: str, remat: bool) -> int:
    """Bytes that a backward pass finds: the temporaries of JAX's program, the tensors that torch saved."""
    config = ModelConfig(V, 64, 5, 2, 32, dropout=0.1)
    options = {"device": "cpu", "remat": remat, "micro_batch_size": B}
    backend: Any = backend_of(name, config, TRAINING, generic_state(config), **options)
    batch = random_tokens(config, B, 65), dropout_keys(1, 2, np.arange(B))
    if name == "jax":
        program = backend._gradients.lower(backend._weights, *backend._micro_batches(*batch)).compile()
        return program.memory_analysis().temp_size_in_bytes
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        tokens, keys = torch.from_numpy(batch[0]).long(), torch.from_numpy(batch[1].view(np.int32))
        loss = backend._token_losses(backend.model, tokens, keys).mean()
    parameters = {p.untyped_storage().data_ptr() for p in backend.model.parameters()}
    assert loss.isfinite()
    return sum(size for pointer, size in saved.items() if pointer not in parameters)


@pytest.mark.parametrize("name", [pytest.param("jax", marks=pytest.mark.long), "torch"])
def test_remat_keeps_less(name: str) -> None:
    assert bytes_kept(name, remat=True) < bytes_kept(name, remat=False) / 3
