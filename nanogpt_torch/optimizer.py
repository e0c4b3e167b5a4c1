"""One step of AdamW (Loshchilov and Hutter 2019), by torch.optim, and of Muon, behind global-norm clipping.

Shape suffixes: N matrices of one shape, L kernels of one place, I in, O out; R rows, K columns.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from nanogpt.config import TrainingConfig
from nanogpt.muon import MOMENTUM, POLYNOMIAL, RATE, STEPS, alike, is_moved_by_muon, pieces, scale


class Optimizer:
    """AdamW, and Muon for the weights that have no second moment. The rate is an argument of the step."""

    # Differs from jax: torch's optimizer holds the parameters and their moments, and changes them in place.
    def __init__(
        self, config: TrainingConfig, parameters: dict[str, Tensor], on_whole: "OnWhole | None" = None
    ) -> None:
        self.grad_clip, self.weight_decay = config.grad_clip, config.weight_decay
        self.parameters, self.on_whole = parameters, on_whole or (lambda function, kernels: function(kernels))
        self.of_muon = {n: p for n, p in parameters.items() if is_moved_by_muon(n, config)}
        self.momentum = {name: torch.zeros_like(p) for name, p in self.of_muon.items()}
        # eps is stated in both twins; decay is on matrices alone, and scaled by the learning rate.
        others = [p for name, p in parameters.items() if name not in self.of_muon]
        matrices = [p for p in others if p.ndim >= 2]
        vectors = [p for p in others if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}]
        groups += [{"params": vectors, "weight_decay": 0.0}] if vectors else []
        # CUDA's fused kernel takes 1 - beta2 in float32, which makes the second moment too small by 1e-6.
        is_fused = all(p.device.type == "cpu" for p in parameters.values())
        betas = (config.beta1, config.beta2)
        self.adamw = torch.optim.AdamW(groups, betas=betas, eps=1e-8, fused=is_fused)

    def load(self, step: int, first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
        """Replace the moments by the given ones."""
        # Differs from jax: moments are part of the optimizer.
        for name, parameter in self.parameters.items():
            if name in self.of_muon:
                self.momentum[name] = first[name]
            else:
                state = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": first[name],
                    "exp_avg_sq": second[name],
                }
                self.adamw.state[parameter] = state

    def moments(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The live first and second moments by name. Muon has no second ones."""
        # Differs from jax: moments are part of the optimizer.
        of_adam = {n: self.adamw.state[p] for n, p in self.parameters.items() if n not in self.of_muon}
        first = {name: state["exp_avg"] for name, state in of_adam.items()}
        return first | self.momentum, {name: state["exp_avg_sq"] for name, state in of_adam.items()}

    @torch.no_grad()
    def update(self, learning_rate: float) -> None:
        """Move the parameters by one step against their gradients."""
        if self.grad_clip:
            self._clip()
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        self.adamw.step()
        gradients = {name: weight.grad for name, weight in self.of_muon.items() if weight.grad is not None}
        for name, first in self.momentum.items():
            first.copy_(MOMENTUM * first + (1 - MOMENTUM) * gradients[name])
        for name, direction in muon_directions(self.momentum, gradients, self.on_whole).items():
            weight = self.of_muon[name]
            weight -= RATE * learning_rate * (direction + self.weight_decay * weight)

    def _clip(self) -> None:
        # Not by clip_grad_norm_, which divides by norm + 1e-6; optax divides by the norm.
        gradients = [g for p in self.parameters.values() if (g := p.grad) is not None]
        scale = (self.grad_clip / get_total_norm(gradients)).clamp(max=1)
        torch._foreach_mul_(gradients, scale)


def muon_directions(
    momentum: dict[str, Tensor], gradients: dict[str, Tensor], on_whole: "OnWhole"
) -> dict[str, Tensor]:
    """The moves of kernels, whose opposites are added to them at Muon's rate: `[O, I]` each."""
    # Differs from jax: torch's kernels are (out, in), and a part of each may be on another device.
    directions: dict[str, Tensor] = {}
    for names in alike(momentum):
        ahead = [MOMENTUM * momentum[n] + (1 - MOMENTUM) * gradients[n] for n in names]  # Nesterov (1983)
        moves_LOI = on_whole(partial(moves, pieces=pieces(names[0])), torch.stack(ahead))
        directions |= dict(zip(names, moves_LOI.unbind(), strict=True))
    return directions


# Differs from jax: a part of each kernel may be on another device.
OnWhole = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
"""It applies a function to a stack of kernels, each of which it sees whole."""


def moves(kernels_LOI: Tensor, pieces: int) -> Tensor:
    """The moves of whole kernels of one place, each of so many matrices: `[L, O, I]`."""
    # Differs from jax: it is a function of whole kernels.
    matrices_NOI = kernels_LOI.unflatten(1, (pieces, -1)).flatten(0, 1)
    _, n_out, n_in = matrices_NOI.shape
    return (orthogonalize(matrices_NOI) * scale(n_in, n_out)).reshape(kernels_LOI.shape)


def orthogonalize(matrices_NRK: Tensor) -> Tensor:
    """The matrices with singular values near 1, by Newton and Schulz's iteration: `[N, R, K]`."""
    a, b, c = POLYNOMIAL
    is_tall = matrices_NRK.shape[1] > matrices_NRK.shape[2]
    x = matrices_NRK.swapaxes(1, 2) if is_tall else matrices_NRK
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-12)
    for _ in range(STEPS):
        gram = x @ x.swapaxes(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.swapaxes(1, 2) if is_tall else x
