"""What a model loses without one of its heads."""

from dataclasses import replace

import numpy as np

from nanogpt.backend import Backend, TrainingState
from nanogpt.config import ModelConfig
from nanogpt.weights import Weights, weight_shapes


def ablation(
    backend: Backend, config: ModelConfig, weights: Weights, tokens_WT1: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss of each window in nats, `[W]`, and its rise without each head, `[W, L, H]`.

    "Without" is with its mean output over all these windows: zeros would be nothing that the layers behind it
    have ever met.
    """
    mean_LHD = np.mean([backend.head_outputs(t[None, :-1])[:, 0].mean(axis=2) for t in tokens_WT1], axis=0)
    # The same model with biases, all zero: one of them can hold a constant output.
    config = replace(config, bias=True)
    whole = {name: weights.get(name, np.zeros(s, np.float32)) for name, s in weight_shapes(config).items()}
    model = type(backend)(config, None, TrainingState.of_weights(whole), device=backend.device)
    losses_W = model.losses(tokens_WT1).mean(axis=1)
    rises_LHW = np.zeros((config.n_layer, config.n_head, len(losses_W)))
    for layer, head in np.ndindex(config.n_layer, config.n_head):
        model.load(TrainingState.of_weights(without_head(whole, layer, head, mean_LHD[layer, head])))
        rises_LHW[layer, head] = model.losses(tokens_WT1).mean(axis=1) - losses_W
    return losses_W, rises_LHW.transpose(2, 0, 1)


def without_head(weights: Weights, layer: int, head: int, output_D: np.ndarray) -> Weights:
    """The weights of a model with biases, changed so that a head's output is `output_D` at all positions."""
    name, D = f"blocks.{layer}.attention.output", len(output_D)
    rows = slice(head * D, (head + 1) * D)
    kernel = weights[f"{name}.kernel"].copy()
    bias = weights[f"{name}.bias"] + output_D @ kernel[rows]
    kernel[rows] = 0
    return weights | {f"{name}.kernel": kernel, f"{name}.bias": bias}
