"""The sizes that are measured, and random tokens in them."""

from dataclasses import dataclass

import numpy as np

from nanogpt.config import ModelConfig
from nanogpt.randomness import random_bits
from nanogpt.training.hardware import flops_per_token


@dataclass(frozen=True)
class Shape:
    """The model and batch of a measurement; the defaults are the reference shape at dropout 0.2."""

    batch_size: int = 64
    block_size: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.2
    attention_dropout: float = 0.2
    """The peers have one rate for both."""

    @property
    def model(self) -> ModelConfig:
        sizes = (self.block_size, self.n_layer, self.n_head, self.n_embd)
        return ModelConfig(65, *sizes, dropout=self.dropout, attention_dropout=self.attention_dropout)

    @property
    def tokens(self) -> int:
        """Tokens of one batch."""
        return self.batch_size * self.block_size

    @property
    def flops(self) -> float:
        """FLOPs of a training step, forward and backward."""
        return self.tokens * flops_per_token(self.model)

    def batch(self, number: int) -> np.ndarray:
        """Random tokens `[B, T+1]`."""
        tokens = random_bits(1, "benchmark", number, self.batch_size * (self.block_size + 1)) % 65
        return tokens.astype(np.int32).reshape(self.batch_size, -1)

    def prompt(self, length: int) -> np.ndarray:
        """Random tokens `[1, length]`."""
        return (random_bits(2, "benchmark", 0, length) % 65).astype(np.int32)[None]
