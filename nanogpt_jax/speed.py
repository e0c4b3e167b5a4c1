"""What backend.py puts in the place of parts of model.py on a CPU: the same numbers, sooner."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

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
