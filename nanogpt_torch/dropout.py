"""Dropout by a stateless hash: the same mask, bit for bit, as nanogpt_jax and nanogpt.randomness."""

import math

import torch
from torch import Tensor, nn

from nanogpt.randomness import keep_threshold


class Dropout(nn.Module):
    """Zero a share `rate` of the elements and scale up the rest; without keys, or at rate 0, do nothing."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, keys_B2: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Drop elements of `x` `[B, ...]`. `index` has their places in a row; by default a row is whole."""
        if keys_B2 is None or self.rate == 0:
            return x
        index = positions(x.shape[1:], device=x.device) if index is None else index
        keep = keep_mask(keys_B2, index, self.rate)
        # Differs from jax: torch's `where`, forward and backward, takes twice as long as a product.
        return x * keep.to(x.dtype).mul_(1 / (1 - self.rate))


def fold_in(keys_B2: Tensor | None, number: int) -> Tensor | None:
    """Keys for part `number` of a model or layer with keys `keys_B2`: int32 `[B, 2]`. None stays None."""
    if keys_B2 is None:
        return None
    # Differs from jax: int32 holds the same bits.
    return mix(keys_B2 * _signed(0x9E3779B1) + (number + 1))


def positions(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The index of each element in a row of `shape`: int32 `[1, *shape]`."""
    # Differs from jax: torch has little for uint32.
    return torch.arange(math.prod(shape), dtype=torch.int32, device=device).reshape(1, *shape)


def keep_mask(keys_B2: Tensor, index: Tensor, rate: float) -> Tensor:
    """The elements at `index` `[1, ...]` to keep: bool `[B, ...]` (nanogpt.randomness.keep_mask)."""
    first_B, second_B = (keys_B2[:, half].reshape(-1, *[1] * (index.ndim - 1)) for half in range(2))
    # Differs from jax: in place, and signed already.
    bits = mix(mix(index ^ first_B).add_(second_B))
    return bits >= keep_threshold(rate)


def mix(bits: Tensor) -> Tensor:
    """nanogpt.randomness.mix on int32, in place: the argument is always a fresh temporary."""
    # Differs from jax: torch has little for uint32. An int32 product wraps to the same bits, but a right
    # shift copies the sign, so what it brought in is masked away. In place takes a third of the time.
    bits ^= (bits >> 16).bitwise_and_(0xFFFF)
    bits *= _signed(0x7FEB352D)
    bits ^= (bits >> 15).bitwise_and_(0x1FFFF)
    bits *= _signed(0x846CA68B)
    bits ^= (bits >> 16).bitwise_and_(0xFFFF)
    return bits


def _signed(bits: int) -> int:
    return bits - 2**32 if bits >= 2**31 else bits
