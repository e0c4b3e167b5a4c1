"""Text from the model: one token at a time, chosen by inverse CDF."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nanogpt.sampling import SamplingPolicy


def choose_token(logits_BV: Tensor, uniform_B: Tensor, policy: SamplingPolicy) -> Tensor:
    """The token that each uniform number in [0, 1) picks: int64 `[B]`."""
    if policy.temperature == 0:
        return logits_BV.argmax(-1)
    probabilities_BV = F.softmax(restrict(logits_BV / policy.temperature, policy), dim=-1)
    cdf_BV = probabilities_BV.cumsum(-1)
    total_B1 = cdf_BV[:, -1:]
    # Rounding may lift the product to the total: a token is never taken beyond the last possible one.
    below_BV = (cdf_BV <= uniform_B[:, None] * total_B1) & (cdf_BV < total_B1)
    return below_BV.sum(-1)


def restrict(logits_BV: Tensor, policy: SamplingPolicy) -> Tensor:
    """Logits with -inf for the tokens that top_k, then top_p, rule out: `[B, V]`."""
    if policy.top_k is not None:
        least_B1 = logits_BV.topk(min(policy.top_k, logits_BV.shape[-1]))[0][:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -math.inf)
    if policy.top_p is not None:
        sorted_BV = logits_BV.sort(descending=True)[0]
        probabilities_BV = F.softmax(sorted_BV, dim=-1)
        before_BV = probabilities_BV.cumsum(-1) - probabilities_BV
        count_B1 = (before_BV < policy.top_p).sum(-1, keepdim=True).clamp(min=1)
        least_B1 = sorted_BV.gather(-1, count_B1 - 1)
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -math.inf)
    return logits_BV


@torch.inference_mode()
def continue_window(
    model: Callable[[Tensor], Tensor],
    window_BT: Tensor,
    uniforms_BN: Tensor,
    policy: SamplingPolicy,
    block_size: int,
) -> tuple[Tensor, Tensor]:
    """Append N tokens to a window of at most block_size tokens.

    Returns the window and the new tokens `[B, N]`. A full window drops its oldest token.
    """
    # Differs from jax: an eager window may grow, a compiled one has one shape and a length.
    tokens = []
    for uniform_B in uniforms_BN.unbind(1):
        logits_BV = model(window_BT)[:, -1].float()
        token_B = choose_token(logits_BV, uniform_B, policy)
        window_BT = torch.cat([window_BT, token_B[:, None]], dim=1)[:, -block_size:]
        tokens.append(token_B)
    return window_BT, torch.stack(tokens, dim=1)
