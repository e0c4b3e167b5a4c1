"""The state of training: all that one step hands to the next."""

from dataclasses import dataclass

import numpy as np

from nanogpt.config import ModelConfig
from nanogpt.weights import Weights, initial_weights, weight_shapes


@dataclass(frozen=True)
class TrainingState:
    """Step, weights and moments, as numpy arrays by canonical name (weights.py)."""

    step: int
    """Optimizer steps done."""
    weights: Weights
    first_moment: Weights
    """Running mean of the gradient: AdamW's, and Muon's momentum."""
    second_moment: Weights
    """AdamW's running mean of the squared gradient; Muon's weights have none."""

    @property
    def is_finite(self) -> bool:
        parts = (self.weights, self.first_moment, self.second_moment)
        return all(np.isfinite(array).all() for part in parts for array in part.values())

    @classmethod
    def initial(cls, config: ModelConfig, seed: int) -> "TrainingState":
        """Step 0 of fresh weights."""
        return cls.of_weights(initial_weights(config, seed))

    @classmethod
    def of_weights(cls, weights: Weights) -> "TrainingState":
        """Step 0 of given weights: moments of zero, for either optimizer."""
        return cls(0, weights, *({name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2)))

    @classmethod
    def placeholder(cls, config: ModelConfig, step: int) -> "TrainingState":
        """The shapes of a state without its values, for which its arrays, of zeros, take no memory."""
        shapes = weight_shapes(config)
        zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
        return cls(step, zeros, zeros, zeros)
