"""One AdamW step (Loshchilov and Hutter 2019) behind global-norm clipping, by optax."""

import jax
import optax

from nanogpt.config import TrainingConfig

# Differs from torch: it has modules and parameters in the place of trees of arrays.
Arrays = dict[str, jax.Array]


class Optimizer:
    """AdamW whose learning rate is an argument of the step: the schedule lives in the core."""

    # Differs from torch: optax is given weights and moments at each step, and returns the new ones.
    def __init__(self, config: TrainingConfig) -> None:
        self.clip = optax.clip_by_global_norm(config.grad_clip) if config.grad_clip else optax.identity()
        # eps is stated in both twins; decay is on matrices alone, and scaled by the learning rate.
        self.adam = optax.scale_by_adam(config.beta1, config.beta2, eps=1e-8)
        self.weight_decay = config.weight_decay

    def update(
        self, weights: Arrays, moments: optax.ScaleByAdamState, gradients: Arrays, learning_rate: jax.Array
    ) -> tuple[Arrays, optax.ScaleByAdamState]:
        """Return weights and moments after one step against `gradients`."""
        gradients, _ = self.clip.update(gradients, optax.EmptyState())
        directions, moments = self.adam.update(gradients, moments)

        def move(weight: jax.Array, direction: jax.Array) -> jax.Array:
            decay = self.weight_decay if weight.ndim >= 2 else 0.0
            return weight - learning_rate * (direction + decay * weight)

        return jax.tree.map(move, weights, directions), moments
