"""Generation: one token at a time, chosen by inverse CDF."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nanogpt.config import ModelConfig
from nanogpt.sampling import SamplingPolicy
from nanogpt_torch.cache import Cache
from nanogpt_torch.model import GPT


def choose_token(logits_BV: Tensor, uniform_B: Tensor, policy: SamplingPolicy) -> Tensor:
    """The token that each uniform number in [0, 1) picks: int64 `[B]`."""
    if policy.temperature == 0:
        return logits_BV.argmax(-1)
    probabilities_BV = F.softmax(restrict(logits_BV / policy.temperature, policy), dim=-1)
    cdf_BV = probabilities_BV.cumsum(-1)
    total_B1 = cdf_BV[:, -1:]
    # Rounding may lift the product to the total, but no token beyond the last possible one is taken.
    below_BV = (cdf_BV <= uniform_B[:, None] * total_B1) & (cdf_BV < total_B1)
    return below_BV.sum(-1)


def restrict(logits_BV: Tensor, policy: SamplingPolicy) -> Tensor:
    """Logits with -inf for the tokens that top_k, then top_p, rule out: `[B, V]`."""
    if policy.top_k is not None:
        least_B1 = torch.topk(logits_BV, min(policy.top_k, logits_BV.shape[-1]))[0][:, -1:]
        logits_BV = torch.where(logits_BV < least_B1, -math.inf, logits_BV)
    if policy.top_p is not None:
        # Differs from jax: sorting gives the order too.
        sorted_BV = torch.sort(logits_BV, descending=True)[0]
        probabilities_BV = F.softmax(sorted_BV, dim=-1)
        before_BV = probabilities_BV.cumsum(-1) - probabilities_BV
        count_B1 = (before_BV < policy.top_p).sum(-1, keepdim=True).clip(min=1)
        # Differs from jax: take_along_dim has no MPS kernel.
        least_B1 = sorted_BV.gather(-1, count_B1 - 1)
        logits_BV = torch.where(logits_BV < least_B1, -math.inf, logits_BV)
    return logits_BV


def forward_cached(model: GPT, tokens_BT: Tensor, first: int, caches: list[Cache]) -> Tensor:
    """Output of the last block for tokens from position `first` on, which the caches take in: `[B, T, C]`."""
    x_BTC = model.embed(tokens_BT, first)
    for block, cache in zip(model.blocks, caches, strict=True):
        x_BTC = block(x_BTC, cache=cache)
    return x_BTC


def last_position(model: GPT, window_BT: Tensor) -> Tensor:
    """Output of the last block for the last token of a window, without caches: `[B, 1, C]`."""
    # Differs from jax: a window holds no padding.
    x_BTC, last = model.embed(window_BT), window_BT.shape[1] - 1
    for block in model.blocks[:-1]:
        x_BTC = block(x_BTC)
    last_B1C = x_BTC[:, last:]
    for block in model.blocks[-1:]:
        # In the last block the other positions matter as keys and values only.
        _, key_BHTD, value_BHTD = block.attention.project(block.attention_norm(x_BTC))
        last_B1C = block(last_B1C, cache=Cache(key_BHTD, value_BHTD, last))
    return last_B1C


def prefill(model: GPT, config: ModelConfig, window_BT: Tensor) -> list[Cache]:
    """Caches that have taken in all tokens of a window."""
    # Differs from jax: the shape is that of the tokens, and no token is a shape too.
    embedding = model.token_embedding.weight
    B, device = len(window_BT), window_BT.device
    caches = [Cache.empty(config, B, embedding.dtype, device) for _ in model.blocks]
    if window_BT.shape[1]:
        forward_cached(model, window_BT, 0, caches)
    return caches


def continue_text(
    model: GPT,
    policy: SamplingPolicy,
    window_BT: Tensor,
    caches: list[Cache] | None,
    uniforms_BN: Tensor,
    block_size: int,
) -> tuple[Tensor, Tensor]:
    """Choose N tokens for a window of at most block_size tokens.

    Returns the window and the new tokens `[B, N]`. A full window drops its oldest token; as positions are
    learned, all others then stand at a new place and no cache helps: pass None.
    """
    # Differs from jax: an eager window may grow, and a plain loop runs; a compiled window has one shape and a
    # length, and the loop is part of the program.
    tokens = []
    for uniform_B in uniforms_BN.unbind(1):
        if caches is None:
            last_B1C = last_position(model, window_BT)
        else:
            last_B1C = forward_cached(model, window_BT[:, -1:], window_BT.shape[1] - 1, caches)
        logits_BV = model.unembed(last_B1C)[:, 0].float()
        token_B = choose_token(logits_BV, uniform_B, policy)
        window_BT = torch.cat([window_BT, token_B[:, None]], dim=1)[:, -block_size:]
        tokens.append(token_B)
    return window_BT, torch.stack(tokens, dim=1)
