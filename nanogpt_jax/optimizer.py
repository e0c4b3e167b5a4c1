"""One step of AdamW (Loshchilov and Hutter 2019), by optax, and of Muon, behind global-norm clipping.

Shape suffixes: N matrices of one shape, I in, O out; R rows, K columns.
"""

import jax
import jax.numpy as jnp
import optax

from nanogpt.config import TrainingConfig
from nanogpt.muon import MOMENTUM, POLYNOMIAL, RATE, STEPS, alike, pieces, scale

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
        momentum = {
            name: MOMENTUM * first[name] + (1 - MOMENTUM) * gradients[name]
            for name in first
            if name not in second
        }
        directions |= muon_directions(momentum, gradients)
        new_weights = {}
        for name, weight in weights.items():
            rate = RATE * learning_rate if name in momentum else learning_rate
            decay = self.weight_decay if weight.ndim >= 2 else 0.0
            new_weights[name] = weight - rate * (directions[name] + decay * weight)
        return new_weights, moments._replace(mu=moments.mu | momentum)


def muon_directions(momentum: Arrays, gradients: Arrays) -> Arrays:
    """The moves of kernels, whose opposites are added to them at Muon's rate: `[I, O]` each."""
    # Differs from torch: kernels are (in, out).
    directions = {}
    for names in alike(momentum):
        ahead = [MOMENTUM * momentum[n] + (1 - MOMENTUM) * gradients[n] for n in names]  # Nesterov (1983)
        matrices_NIO = jnp.stack([m for kernel in ahead for m in jnp.split(kernel, pieces(names[0]), axis=1)])
        _, n_in, n_out = matrices_NIO.shape
        moves_NIO = orthogonalize(matrices_NIO) * scale(n_in, n_out)
        for name, move_NIO in zip(names, jnp.split(moves_NIO, len(names)), strict=True):
            directions[name] = jnp.concatenate(list(move_NIO), axis=1)
    return directions


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
