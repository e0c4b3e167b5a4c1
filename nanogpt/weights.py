"""The canonical layout of the weights, which checkpoints hold and both twins convert to and from.

| name                                             | shape   | meaning                               |
|--------------------------------------------------|---------|---------------------------------------|
| token_embedding.embedding                        | (V, C)  | a row for each token                  |
| position_embedding.embedding                     | (T, C)  | a row for each position               |
| blocks.N.attention_norm.scale, .bias             | (C,)    | LayerNorm before the attention        |
| blocks.N.attention.query_key_value.kernel, .bias | (C, 3C) | queries, keys, values; heads in order |
| blocks.N.attention.output.kernel, .bias          | (C, C)  | mixes the outputs of the heads        |
| blocks.N.feed_forward_norm.scale, .bias          | (C,)    | LayerNorm before the feed-forward     |
| blocks.N.feed_forward.expand.kernel, .bias       | (C, F)  | F = 4C                                |
| blocks.N.feed_forward.contract.kernel, .bias     | (F, C)  | back to the residual stream           |
| final_norm.scale, .bias                          | (C,)    | LayerNorm before the head             |
| head.kernel                                      | (C, V)  | absent with tie_weights               |

Kernels are (in, out), and a bias has the length of the output. Biases are absent unless the configuration's
`bias` is set. The head has no bias, and with tie_weights its kernel is the token embedding, transposed.
"""

import math

import numpy as np

from nanogpt.config import ModelConfig
from nanogpt.randomness import normals

Weights = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


def weight_shapes(config: ModelConfig) -> Shapes:
    """Name and shape of every weight of a model, in the order of the forward pass."""
    C, F = config.n_embd, 4 * config.n_embd

    def with_bias(name: str, weight: str, *shape: int) -> Shapes:
        shapes: Shapes = {f"{name}.{weight}": shape}
        return shapes | {f"{name}.bias": shape[-1:]} if config.bias else shapes

    shapes: Shapes = {
        "token_embedding.embedding": (config.vocab_size, C),
        "position_embedding.embedding": (config.block_size, C),
    }
    for layer in range(config.n_layer):
        block = f"blocks.{layer}"
        shapes |= with_bias(f"{block}.attention_norm", "scale", C)
        shapes |= with_bias(f"{block}.attention.query_key_value", "kernel", C, 3 * C)
        shapes |= with_bias(f"{block}.attention.output", "kernel", C, C)
        shapes |= with_bias(f"{block}.feed_forward_norm", "scale", C)
        shapes |= with_bias(f"{block}.feed_forward.expand", "kernel", C, F)
        shapes |= with_bias(f"{block}.feed_forward.contract", "kernel", F, C)
    shapes |= with_bias("final_norm", "scale", C)
    if not config.tie_weights:
        shapes["head.kernel"] = (C, config.vocab_size)
    return shapes


def initial_weights(config: ModelConfig, seed: int) -> Weights:
    """GPT-2's initial weights, in float32: N(0, 0.02), scales 1, biases 0.

    The standard deviation of projections to the residual stream is 0.02 / sqrt(2 n_layer).
    """
    weights = {}
    for name, shape in weight_shapes(config).items():
        if name.endswith(".scale"):
            weights[name] = np.ones(shape, np.float32)
        elif name.endswith(".bias"):
            weights[name] = np.zeros(shape, np.float32)
        else:
            residual = name.endswith(("attention.output.kernel", "contract.kernel"))
            deviation = 0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02
            draws = normals(seed, f"weights/{name}", 0, math.prod(shape)).reshape(shape)
            weights[name] = draws * np.float32(deviation)
    return weights


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters of a model, with embeddings."""
    return sum(math.prod(shape) for shape in weight_shapes(config).values())
