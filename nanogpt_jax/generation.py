"""Generation: one token at a time, chosen by inverse CDF."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from nanogpt.config import ModelConfig
from nanogpt.sampling import SamplingPolicy
from nanogpt_jax.cache import Cache
from nanogpt_jax.model import GPT

# Differs from torch: the values that a loop carries have a type.
Carry = tuple[jax.Array, jax.Array, list[Cache] | None, jax.Array]


def choose_token(logits_BV: jax.Array, uniform_B: jax.Array, policy: SamplingPolicy) -> jax.Array:
    """The token that each uniform number in [0, 1) picks: int32 `[B]`."""
    if policy.temperature == 0:
        return logits_BV.argmax(-1)
    probabilities_BV = nnx.softmax(restrict(logits_BV / policy.temperature, policy), axis=-1)
    cdf_BV = probabilities_BV.cumsum(-1)
    total_B1 = cdf_BV[:, -1:]
    # Rounding may lift the product to the total, but no token beyond the last possible one is taken.
    below_BV = (cdf_BV <= uniform_B[:, None] * total_B1) & (cdf_BV < total_B1)
    return below_BV.sum(-1)


def restrict(logits_BV: jax.Array, policy: SamplingPolicy) -> jax.Array:
    """Logits with -inf for the tokens that top_k, then top_p, rule out: `[B, V]`."""
    if policy.top_k is not None:
        least_B1 = jax.lax.top_k(logits_BV, min(policy.top_k, logits_BV.shape[-1]))[0][:, -1:]
        logits_BV = jnp.where(logits_BV < least_B1, -math.inf, logits_BV)
    if policy.top_p is not None:
        # Differs from torch: sorting gives the values alone.
        sorted_BV = jnp.sort(logits_BV, descending=True)
        probabilities_BV = nnx.softmax(sorted_BV, axis=-1)
        before_BV = probabilities_BV.cumsum(-1) - probabilities_BV
        count_B1 = (before_BV < policy.top_p).sum(-1, keepdims=True).clip(min=1)
        least_B1 = jnp.take_along_axis(sorted_BV, count_B1 - 1, axis=-1)
        logits_BV = jnp.where(logits_BV < least_B1, -math.inf, logits_BV)
    return logits_BV


def forward_cached(
    model: GPT, tokens_BT: jax.Array, first: int | jax.Array, caches: list[Cache]
) -> jax.Array:
    """Output of the last block for tokens from position `first` on, which the caches take in: `[B, T, C]`."""
    x_BTC = model.embed(tokens_BT, first)
    for block, cache in zip(model.blocks, caches, strict=True):
        x_BTC = block(x_BTC, cache=cache)
    return x_BTC


def last_position(model: GPT, window_BT: jax.Array, length: jax.Array) -> jax.Array:
    """Output of the last block for token `length` of a window, without caches: `[B, 1, C]`.

    It does not see the padding behind it: the mask is causal.
    """
    # Differs from torch: a window has one shape, and padding behind its tokens.
    x_BTC, last = model.embed(window_BT), length - 1
    for block in model.blocks[:-1]:
        x_BTC = block(x_BTC)
    last_B1C = jax.lax.dynamic_slice_in_dim(x_BTC, last, 1, axis=1)
    for block in model.blocks[-1:]:
        # In the last block the other positions matter as keys and values only.
        _, key_BHTD, value_BHTD = block.attention.project(block.attention_norm(x_BTC))
        last_B1C = block(last_B1C, cache=Cache(key_BHTD, value_BHTD, last))
    return last_B1C


def prefill(model: GPT, config: ModelConfig, window_BT: jax.Array, length: jax.Array) -> list[Cache]:
    """Caches that have taken in the first `length` tokens of a window."""
    dtype = model.token_embedding.embedding[...].dtype
    caches = [Cache.empty(config, len(window_BT), dtype) for _ in model.blocks]
    # Differs from torch: the caches take in the whole window, so that shapes never change; what stands behind
    # `length` is overwritten in time.
    forward_cached(model, window_BT, 0, caches)
    for cache in caches:
        cache.length = length
    return caches


def continue_text(
    model: GPT,
    policy: SamplingPolicy,
    window_BT: jax.Array,
    length: jax.Array,
    caches: list[Cache] | None,
    uniforms_BN: jax.Array,
    count: jax.Array,
) -> tuple[jax.Array, jax.Array, list[Cache] | None, jax.Array]:
    """Choose `count` tokens, at most N, for a window of block_size tokens: `length` of text, then padding.

    Returns the window, its length, the caches and the new tokens `[B, N]`. A full window drops its oldest
    token; as positions are learned, all others then stand at a new place and no cache helps: pass None.
    """

    # Differs from torch: the loop is part of the compiled program, and so a function of what it carries.
    def append(n: jax.Array, carry: Carry) -> Carry:
        window_BT, length, caches, tokens_BN = carry
        if caches is None:
            last_B1C = last_position(model, window_BT, length)
        else:
            newest_B1 = jax.lax.dynamic_slice_in_dim(window_BT, length - 1, 1, axis=1)
            last_B1C = forward_cached(model, newest_B1, length - 1, caches)
        logits_BV = model.unembed(last_B1C)[:, 0].astype(jnp.float32)
        token_B = choose_token(logits_BV, uniforms_BN[:, n], policy).astype(window_BT.dtype)
        full = length == window_BT.shape[1]
        window_BT = jnp.where(full, jnp.roll(window_BT, -1, axis=1), window_BT)
        length = length + 1 - full
        window_BT = window_BT.at[:, length - 1].set(token_B)
        return window_BT, length, caches, tokens_BN.at[:, n].set(token_B)

    tokens_BN = jnp.zeros(uniforms_BN.shape, window_BT.dtype)
    return jax.lax.fori_loop(0, count, append, (window_BT, length, caches, tokens_BN))
