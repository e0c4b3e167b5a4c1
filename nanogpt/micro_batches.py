"""The sizes of what is computed at once: on a CPU, activations stay near the caches; elsewhere, they fit."""

import math

from nanogpt.config import ModelConfig
from nanogpt.weights import count_parameters

LOGITS_AT_ONCE = 2**27  # numbers: what a large vocabulary would make of a whole micro-batch may be gigabytes


def micro_batch_rows(batch_size: int, block_size: int, tokens: float) -> int:
    """Rows of a micro-batch: the largest divisor of the batch with at most `tokens` tokens, or 1."""
    most = int(max(1, min(batch_size, tokens / block_size)))
    return max(rows for rows in range(1, most + 1) if batch_size % rows == 0)


def evaluation_rows(config: ModelConfig) -> int:
    """Windows of block_size tokens whose logits are computed at once where nothing is trained."""
    return max(1, min(2**14, LOGITS_AT_ONCE // config.vocab_size) // config.block_size)


def tokens_that_fit(
    config: ModelConfig, itemsize: int, memory: int | None, remat: bool = False, fsdp: int = 1
) -> float:
    """Tokens that a device of `memory` bytes can train on at once, by an estimate that is on the safe side.

    `itemsize` is the bytes of an activation, and `fsdp` the devices that share weights and moments. Any
    number fits into a memory of unknown size.
    """
    if memory is None:
        return math.inf
    free = 0.9 * memory - state_bytes(config, itemsize, remat, fsdp)
    return max(0.0, free) / activation_bytes(config, itemsize, remat)


def state_bytes(config: ModelConfig, itemsize: int, remat: bool = False, fsdp: int = 1) -> float:
    """Bytes of a device that training takes whatever its micro-batch."""
    # Weights, two moments and a gradient in float32; and all weights in the type of the computation.
    state = (16 / fsdp + itemsize) * count_parameters(config)
    return state + (6 * itemsize * LOGITS_AT_ONCE if remat else 0)  # the logits of a chunk


def activation_bytes(config: ModelConfig, itemsize: int, remat: bool = False) -> float:
    """Bytes that each token of a micro-batch adds to them."""
    # Activations that the backward pass needs, then the logits and what the loss makes of them. Compiled for
    # an H100, 20 L C and 1 V are needed; eager torch held 20 L C and 5 V there.
    L, H, T = config.n_layer, config.n_head, config.block_size
    values = 22 * L * config.n_embd + 6 * config.vocab_size
    if remat:  # each block's input, and all of a single block
        values = (L + 22) * config.n_embd
        L = 1
    if config.attention_dropout or itemsize == 4:  # no fused kernel: scores, weights and mask
        values += 3 * L * H * T
    return itemsize * values
