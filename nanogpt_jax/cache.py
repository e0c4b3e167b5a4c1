"""The keys and values of past positions, so that a new token costs one position instead of all."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from nanogpt.config import ModelConfig


# Differs from torch: a compiled function takes and returns it.
@jax.tree_util.register_dataclass
@dataclass
class Cache:
    """Keys and values of one layer, with room for block_size positions."""

    key_BHSD: jax.Array
    value_BHSD: jax.Array
    length: int | jax.Array = 0
    """Positions kept so far; the room behind them is not seen."""

    @classmethod
    def empty(cls, config: ModelConfig, batch_size: int, dtype: jnp.dtype) -> "Cache":
        """Room for the keys and values of a batch."""
        shape = (batch_size, config.n_head, config.block_size, config.n_embd // config.n_head)
        return cls(jnp.zeros(shape, dtype=dtype), jnp.zeros(shape, dtype=dtype))

    def extend(
        self, key_BHTD: jax.Array, value_BHTD: jax.Array
    ) -> tuple[int | jax.Array, jax.Array, jax.Array]:
        """Add T positions. Returns the position of the first one, and all keys and values from 0 on."""
        first = self.length
        self.length = first + key_BHTD.shape[2]
        # Differs from torch: arrays can't be written in place, and shapes never change; so the empty room is
        # returned too, and the causal mask hides it.
        self.key_BHSD = jax.lax.dynamic_update_slice(self.key_BHSD, key_BHTD, (0, 0, first, 0))
        self.value_BHSD = jax.lax.dynamic_update_slice(self.value_BHSD, value_BHTD, (0, 0, first, 0))
        return first, self.key_BHSD, self.value_BHSD
