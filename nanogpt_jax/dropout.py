"""Dropout by a stateless hash: the same mask, bit for bit, as nanogpt_torch and nanogpt.randomness."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from nanogpt.randomness import keep_threshold


class Dropout(nnx.Module):
    """Zero a share `rate` of the elements and scale up the rest; without keys, or at rate 0, do nothing."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(
        self, x: jax.Array, keys_B2: jax.Array | None = None, index: jax.Array | None = None
    ) -> jax.Array:
        """Drop elements of `x` `[B, ...]`. `index` has their places in a row; by default a row is whole."""
        if keys_B2 is None or self.rate == 0:
            return x
        index = positions(x.shape[1:]) if index is None else index
        keep = keep_mask(keys_B2, index, self.rate)
        # Differs from torch: XLA fuses a choice as well as a product.
        return jnp.where(keep, x * (1 / (1 - self.rate)), 0)


def fold_in(keys_B2: jax.Array | None, number: int) -> jax.Array | None:
    """Keys for part `number` of a model or layer with keys `keys_B2`: uint32 `[B, 2]`. None stays None."""
    if keys_B2 is None:
        return None
    # Differs from torch: uint32 constants are written as they are.
    return mix(keys_B2 * jnp.uint32(0x9E3779B1) + jnp.uint32(number + 1))


def positions(shape: tuple[int, ...]) -> jax.Array:
    """The index of each element in a row of `shape`: uint32 `[1, *shape]`."""
    # Differs from torch: it has little for uint32.
    return jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(1, *shape)


def keep_mask(keys_B2: jax.Array, index: jax.Array, rate: float) -> jax.Array:
    """The elements at `index` `[1, ...]` to keep: bool `[B, ...]` (nanogpt.randomness.keep_mask)."""
    first_B, second_B = (keys_B2[:, half].reshape(-1, *[1] * (index.ndim - 1)) for half in range(2))
    # Differs from torch: XLA fuses all of it, so that nothing needs to be in place.
    bits = mix(mix(index ^ first_B) + second_B)
    # Differs from torch: the threshold is for signed numbers.
    return jax.lax.bitcast_convert_type(bits, jnp.int32) >= keep_threshold(rate)


def mix(bits: jax.Array) -> jax.Array:
    """nanogpt.randomness.mix on uint32."""
    # Differs from torch: XLA fuses all of it, so that nothing needs to be in place.
    bits = bits ^ (bits >> 16)
    bits = bits * jnp.uint32(0x7FEB352D)
    bits = bits ^ (bits >> 15)
    bits = bits * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)
