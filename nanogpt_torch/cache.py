"""The keys and values of past positions, so that a new token costs one position instead of all."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpt.config import ModelConfig


@dataclass
class Cache:
    """Keys and values of one layer, with room for block_size positions."""

    key_BHSD: Tensor
    value_BHSD: Tensor
    length: int = 0
    """Positions kept so far; the room behind them is not seen."""

    @classmethod
    def empty(cls, config: ModelConfig, batch_size: int, dtype: torch.dtype, device: torch.device) -> "Cache":
        """Room for the keys and values of a batch."""
        shape = (batch_size, config.n_head, config.block_size, config.n_embd // config.n_head)
        return cls(
            torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device)
        )

    def extend(self, key_BHTD: Tensor, value_BHTD: Tensor) -> tuple[int, Tensor, Tensor]:
        """Add T positions. Returns the position of the first one, and all keys and values from 0 on."""
        first = self.length
        self.length = first + key_BHTD.shape[2]
        # Differs from jax: tensors are written in place, and an eager shape may grow.
        self.key_BHSD[:, :, first : self.length] = key_BHTD
        self.value_BHSD[:, :, first : self.length] = value_BHTD
        return first, self.key_BHSD[:, :, : self.length], self.value_BHSD[:, :, : self.length]
