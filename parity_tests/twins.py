"""Both twins with the same weights, and everything they compute on the way, as numpy."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
import torch

import nanogpt_jax.backend
import nanogpt_torch.backend
from nanogpt.backend import Backend
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.randomness import dropout_keys, normals, random_bits
from nanogpt.state import TrainingState
from nanogpt.weights import Weights
from parity_tests import reference
from parity_tests.devices import device_of
from parity_tests.report import KernelsName, Report
from parity_tests.tolerances import KEY_BIAS


def backend_of(name: str, *arguments: Any, kernels: KernelsName = "fast", **options: Any) -> Backend:
    """A backend built of the kernels that it chooses on its device, or of the definitions alone."""
    module: Any = {"jax": nanogpt_jax, "torch": nanogpt_torch}[name]
    plain = module.model.Kernels() if kernels == "plain" else None
    return module.backend.Backend(*arguments, **options, kernels=plain)


def random_tokens(config: ModelConfig, *shape: int, step: int = 0) -> np.ndarray:
    """Random tokens of any shape."""
    tokens_N = random_bits(7, "tokens", step, int(np.prod(shape))) % config.vocab_size
    return tokens_N.astype(np.int32).reshape(shape)


@dataclass
class Twins:
    """A JAX and a torch backend at the same training state, built of the same kind of kernels."""

    config: ModelConfig
    training: TrainingConfig | None
    initial: TrainingState
    kernels: KernelsName
    jax: Backend
    torch: Backend

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        training: TrainingConfig | None,
        device: str,
        embedding_scale: float = 1.0,
        kernels: KernelsName = "fast",
        dtype: str = "float32",
    ) -> "Twins":
        initial = generic_state(config, embedding_scale)
        twins = (
            backend_of(
                name,
                config,
                training,
                initial,
                device=device_of(name, device),
                kernels=kernels,
                dtype=dtype,
            )
            for name in ("jax", "torch")
        )
        return cls(config, training, initial, kernels, *twins)

    def reset(self, state: TrainingState | None = None) -> None:
        self.jax.load(state or self.initial)
        self.torch.load(state or self.initial)

    def tokens(self, *shape: int, step: int = 0) -> np.ndarray:
        return random_tokens(self.config, *shape, step=step)


def generic_state(config: ModelConfig, embedding_scale: float = 1.0) -> TrainingState:
    """A state in which no weight is special: scales off 1, biases off 0, kernels five times GPT-2's start.

    At the start itself the attention is so flat and the logits so small that a mistake hardly shows.
    """
    state = TrainingState.initial(config, seed=3)
    for name, weight in state.weights.items():
        noise = normals(5, f"noise/{name}", 0, weight.size).reshape(weight.shape)
        if weight.ndim == 1:
            weight += np.float32(0.1) * noise
        elif "embedding" in name:
            weight *= np.float32(embedding_scale)
        else:
            weight *= np.float32(5)
    return state


def activations(model: Any, tokens_BT: Any) -> Iterator[tuple[str, str, Any]]:
    """Quantity, label and value of all that a twin computes in its blocks. The twins share their names."""
    x_BTC = model.embed(tokens_BT)
    for layer, block in enumerate(model.blocks):
        normed_BTC = block.attention_norm(x_BTC)
        for name, value in zip(("query", "key", "value"), block.attention.project(normed_BTC), strict=True):
            yield "queries, keys, values", f"blocks.{layer} {name}", value
        yield "attention weights", f"blocks.{layer}", block.attention.weights(normed_BTC)
        x_BTC = block(x_BTC)
        yield "block output", f"blocks.{layer}", x_BTC


def compare_models(twins: Twins, report: Report) -> None:
    """Everything of one forward and one backward pass, of both twins and of the judge."""
    tokens_BT1, _ = batch_off_the_kink(twins, twins.initial.weights, rows=2)
    tokens_BT = tokens_BT1[:, :-1]
    unused_keys_B2 = np.zeros((len(tokens_BT), 2), np.uint32)
    compare = partial(report.compare, kernels=twins.kernels)

    with torch.inference_mode():
        on_device = torch.from_numpy(tokens_BT).long().to(twins.torch.device)
        of_torch = [
            (q, label, value.cpu().numpy()) for q, label, value in activations(twins.torch.model, on_device)
        ]
    with jax.default_matmul_precision("highest"):
        # One program: eager jax would compile every operation of every shape by itself.
        model = twins.jax.model
        of_jax = jax.jit(lambda tokens_BT: [value for *_, value in activations(model, tokens_BT)])(tokens_BT)
    for (quantity, label, actual), expected in zip(of_torch, of_jax, strict=True):
        compare(quantity, label, actual, expected)

    judged_logits = reference.logits(twins.initial.weights, twins.config, tokens_BT)
    judged_loss = reference.loss(twins.initial.weights, twins.config, tokens_BT1)
    gradients = {}
    for backend in (twins.jax, twins.torch):
        compare("logits", f"{backend.name} against float64", backend.logits(tokens_BT), judged_logits)
        loss, gradients[backend.name] = backend.gradients(tokens_BT1, unused_keys_B2)
        compare("loss", f"{backend.name} against float64", loss, judged_loss)
        compare("loss", f"{backend.name}, by token", backend.losses(tokens_BT1).mean(), judged_loss)
    for name, expected in gradients["jax"].items():
        compare("gradients", name, gradients["torch"][name], expected)


def thorough_except(names: Iterable[Any], *quick: Any, long: bool = False) -> list[Any]:
    """Parameters of a test of which the doctor, and pytest if it is `long`, tries the `quick` ones alone."""
    marks = [pytest.mark.thorough, pytest.mark.long] if long else [pytest.mark.thorough]
    return [name if name in quick else pytest.param(name, marks=marks) for name in names]


def batch_off_the_kink(
    twins: Twins, weights: Weights, rows: int, step: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Random windows `[rows, T+1]` and, for a training step, its dropout keys `[rows, 2]`.

    They are such that no hidden unit is as near to 0 as rounding could push it across: there ReLU's
    derivative jumps from 0 to 1, and either answer is right.
    """
    for number in range(100):
        hidden: list[np.ndarray] = []
        tokens_BT1 = twins.tokens(rows, twins.config.block_size + 1, step=100 * (step or 0) + number)
        keys_B2 = None if step is None else dropout_keys(1337, 100 * step + number, np.arange(rows))
        reference.logits(weights, twins.config, tokens_BT1[:, :-1], keys_B2, hidden)
        if all(np.abs(expanded).min() > 2e-6 for expanded in hidden):
            return tokens_BT1, keys_B2
    raise AssertionError("every batch has a hidden unit at its kink")


def compare_states(
    quantities: tuple[str, str], label: str, actual: TrainingState, expected: TrainingState, report: Report
) -> None:
    """Weights and both moments by name; `quantities` are the rows for weights and for moments."""
    assert actual.step == expected.step
    for part, quantity in (
        ("weights", quantities[0]),
        ("first_moment", quantities[1]),
        ("second_moment", quantities[1]),
    ):
        assert getattr(actual, part).keys() == getattr(expected, part).keys()
        for name in getattr(expected, part):
            values = (getattr(actual, part)[name], getattr(expected, part)[name])
            if name.endswith(KEY_BIAS):
                values = tuple(without_key_bias(v) for v in values)
            report.compare(quantity, f"{label}, {part} of {name}", *values)


def without_key_bias(bias: np.ndarray) -> np.ndarray:
    query, _, value = np.split(bias, 3)
    return np.concatenate([query, value])
