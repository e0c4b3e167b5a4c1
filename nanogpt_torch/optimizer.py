"""One AdamW step (Loshchilov and Hutter 2019) behind global-norm clipping, by torch.optim."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from nanogpt.config import TrainingConfig


class Optimizer:
    """AdamW whose learning rate is an argument of the step: the schedule lives in the core."""

    # Differs from jax: torch's optimizer holds the parameters and their moments, and changes them in place.
    def __init__(self, config: TrainingConfig, parameters: Iterable[Tensor]) -> None:
        parameters = list(parameters)
        self.grad_clip = config.grad_clip
        # eps is stated in both twins; decay is on matrices alone, and scaled by the learning rate.
        matrices = [p for p in parameters if p.ndim >= 2]
        vectors = [p for p in parameters if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}]
        groups += [{"params": vectors, "weight_decay": 0.0}] if vectors else []
        self.adamw = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=1e-8, fused=True)

    def update(self, learning_rate: float) -> None:
        """Move the parameters by one step against their gradients."""
        if self.grad_clip:
            self._clip()
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        self.adamw.step()

    def _clip(self) -> None:
        # Not by clip_grad_norm_, which divides by norm + 1e-6; optax divides by the norm.
        gradients = [p.grad for group in self.adamw.param_groups for p in group["params"]]
        scale = (self.grad_clip / get_total_norm(gradients)).clamp(max=1)
        torch._foreach_mul_(gradients, scale)
