"""Mean ablation: the rise of the loss when one head's output is replaced by its mean."""

from dataclasses import replace

import numpy as np

from nanogpt.backend import Backend
from nanogpt.config import ModelConfig
from nanogpt.state import TrainingState
from nanogpt.weights import Weights, weight_shapes


def ablate_heads(
    backend: Backend, config: ModelConfig, weights: Weights, tokens_WT1: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss of each window, `[W]`, and its increase without each head, `[W, L, H]`, in nats a token.

    A head is taken away by replacing its output with its mean over all these windows. Zeros would be an
    input that the later layers have never met.
    """
    mean_LHD = mean_outputs(backend, tokens_WT1[:, :-1])
    # A constant output fits into the bias of the projection, so the model gets biases, all zero.
    config = replace(config, bias=True)
    biased = {name: weights.get(name, np.zeros(s, np.float32)) for name, s in weight_shapes(config).items()}
    model = type(backend)(config, None, TrainingState.of_weights(biased), device=backend.device)
    losses_W = model.losses(tokens_WT1).mean(axis=1)
    increases_LHW = np.zeros((config.n_layer, config.n_head, len(losses_W)))
    for layer, head in np.ndindex(config.n_layer, config.n_head):
        model.load(TrainingState.of_weights(without_head(biased, layer, head, mean_LHD[layer, head])))
        increases_LHW[layer, head] = model.losses(tokens_WT1).mean(axis=1) - losses_W
    return losses_W, increases_LHW.transpose(2, 0, 1)


def mean_outputs(backend: Backend, tokens_WT: np.ndarray) -> np.ndarray:
    """Output of each head, averaged over all positions of all windows: `[L, H, D]`."""
    return np.mean(
        [backend.head_outputs(tokens_T[None])[:, 0].mean(axis=2) for tokens_T in tokens_WT], axis=0
    )


def without_head(weights: Weights, layer: int, head: int, output_D: np.ndarray) -> Weights:
    """Weights of a model with biases, changed so that a head's output is `output_D` at every position."""
    name, D = f"blocks.{layer}.attention.output", len(output_D)
    rows = slice(head * D, (head + 1) * D)
    kernel = weights[f"{name}.kernel"].copy()
    bias = weights[f"{name}.bias"] + output_D @ kernel[rows]
    kernel[rows] = 0
    return weights | {f"{name}.kernel": kernel, f"{name}.bias": bias}
