"""What backend.py puts in the place of parts of model.py: the same numbers, sooner."""

import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp

from nanogpt.config import ModelConfig
from nanogpt.randomness import normals
from nanogpt_jax.dropout import Dropout, fold_in, positions
from nanogpt_jax.model import attention_weights

# Queries come in so many chunks, each of which meets the keys up to its own end: of the pairs that the causal
# mask throws away, most are never computed. More chunks spare little more, and make products too small.
CHUNKS = 4


def attend_in_chunks(
    plain: Callable[..., jax.Array],
    dropout: Dropout,
    query_BHTD: jax.Array,
    key_BHSD: jax.Array,
    value_BHSD: jax.Array,
    first: int | jax.Array = 0,
    keys_B2: jax.Array | None = None,
) -> jax.Array:
    """What `plain`, MultiHeadAttention.attend, gives for whole windows; `dropout` is that of its weights."""
    H, T = query_BHTD.shape[1:3]
    if T < 8 * CHUNKS or key_BHSD.shape[2] != T:
        return plain(query_BHTD, key_BHSD, value_BHSD, first, keys_B2)
    index_1HTS = positions((H, T, T))
    heads_BHTD = []
    for chunk in range(CHUNKS):
        start, stop = T * chunk // CHUNKS, T * (chunk + 1) // CHUNKS
        weights_BHTS = attention_weights(query_BHTD[:, :, start:stop], key_BHSD[:, :, :stop], start)
        weights_BHTS = dropout(weights_BHTS, fold_in(keys_B2, 0), index_1HTS[:, :, start:stop, :stop])
        heads_BHTD.append(weights_BHTS @ value_BHSD[:, :, :stop])
    return jnp.concatenate(heads_BHTD, axis=2)


def attend_fused(
    plain: Callable[..., jax.Array],
    dropout: Dropout,
    query_BHTD: jax.Array,
    key_BHSD: jax.Array,
    value_BHSD: jax.Array,
    first: int | jax.Array = 0,
    keys_B2: jax.Array | None = None,
) -> jax.Array:
    """What `plain` gives, by cuDNN's fused kernel where it can: whole windows, no dropout."""
    T, S = query_BHTD.shape[2], key_BHSD.shape[2]
    # Differs from torch: not for one query, whose keys are followed by room that the kernel would see.
    if T != S or (keys_B2 is not None and dropout.rate > 0):
        return plain(query_BHTD, key_BHSD, value_BHSD, first, keys_B2)
    return _fused(query_BHTD, key_BHSD, value_BHSD)


def _fused(query_BHTD: jax.Array, key_BHSD: jax.Array, value_BHSD: jax.Array) -> jax.Array:
    """Whole windows under the causal mask."""
    # Differs from torch: jax wants heads behind positions, and never chooses cuDNN by itself.
    query_BTHD, key_BSHD, value_BSHD = (x.swapaxes(1, 2) for x in (query_BHTD, key_BHSD, value_BHSD))
    heads_BTHD = jax.nn.dot_product_attention(
        query_BTHD, key_BSHD, value_BSHD, is_causal=True, implementation="cudnn"
    )
    return heads_BTHD.swapaxes(1, 2)


def fused_attention_is_right(config: ModelConfig, device: str, dtype: jnp.dtype) -> bool:
    """Whether cuDNN's kernel is there, equals the plain definition, and lets no position see a later one.

    It is for half precision on CUDA. A line of notice says where it is not used there.
    """
    if device != "cuda" or dtype != jnp.bfloat16:
        return False
    T, D = config.block_size, config.n_embd // config.n_head
    query, key, value = (
        jnp.asarray(normals(0, f"self-test/{name}", 0, T * D), dtype).reshape(1, 1, T, D)
        for name in ("query", "key", "value")
    )
    try:
        before = _fused(query, key, value)
        plain = attention_weights(query, key) @ value
        right = bool(jnp.abs(before - plain).max() <= 5e-2)
        for t in (T - 1, T // 2, 1):
            # From the end on, so that what was changed before lies behind t.
            key, value = key.at[:, :, t:].add(1), value.at[:, :, t:].add(-1)
            right &= bool((_fused(query, key, value)[:, :, :t] == before[:, :, :t]).all())
        problem = "wrong"
    except (RuntimeError, ValueError, NotImplementedError) as error:  # no cuDNN, or an old one
        right, problem = False, f"not to be had ({str(error).splitlines()[0]})"
    if not right:
        print(f"cuDNN's attention is {problem} on {device}: taking the plain one", file=sys.stderr)
    return right
