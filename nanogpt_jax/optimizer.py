"""One step of AdamW (Loshchilov and Hutter 2019), by optax, and of Muon, behind global-norm clipping.

Shape suffixes: N matrices of one kernel, I in, O out; R rows, K columns.
"""

import jax
import jax.numpy as jnp
import optax

from nanogpt.config import TrainingConfig
from nanogpt.muon import MOMENTUM, POLYNOMIAL, RATE, STEPS, pieces, scale

# Differs from torch: it has modules and parameters in the place of trees of arrays.
Arrays = dict[str, jax.Array]


class Optimizer:
    """AdamW, and Muon for the weights that have no second moment. The rate is an argument of the step."""

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
        first, second = moments.mu, moments.nu
        of_adam = moments._replace(mu={name: first[name] for name in second})
        directions, moments = self.adam.update({name: gradients[name] for name in second}, of_adam)
        new_weights, new_first = {}, dict(moments.mu)
        for name, weight in weights.items():
            rate, decay = learning_rate, self.weight_decay if weight.ndim >= 2 else 0.0
            if name not in second:
                rate = RATE * learning_rate
                new_first[name] = MOMENTUM * first[name] + (1 - MOMENTUM) * gradients[name]
                directions[name] = muon_direction(name, new_first[name], gradients[name])
            new_weights[name] = weight - rate * (directions[name] + decay * weight)
        return new_weights, moments._replace(mu=new_first)


def muon_direction(name: str, momentum_IO: jax.Array, gradient_IO: jax.Array) -> jax.Array:
    """The move of a kernel, whose opposite is added to it at Muon's rate: `[I, O]`."""
    ahead_IO = MOMENTUM * momentum_IO + (1 - MOMENTUM) * gradient_IO  # Nesterov (1983)
    matrices_NIO = jnp.stack(jnp.split(ahead_IO, pieces(name), axis=1))
    _, n_in, n_out = matrices_NIO.shape
    return jnp.concatenate(list(orthogonalize(matrices_NIO) * scale(n_in, n_out)), axis=1)


def orthogonalize(matrices_NRK: jax.Array) -> jax.Array:
    """The matrices with singular values near 1, by Newton and Schulz's iteration: `[N, R, K]`."""
    a, b, c = POLYNOMIAL
    is_tall = matrices_NRK.shape[1] > matrices_NRK.shape[2]
    x = matrices_NRK.swapaxes(1, 2) if is_tall else matrices_NRK
    x = x / (jnp.linalg.matrix_norm(x, keepdims=True) + 1e-12)
    for _ in range(STEPS):
        gram = x @ x.swapaxes(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.swapaxes(1, 2) if is_tall else x
