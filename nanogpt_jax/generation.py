"""Text from the model: one token at a time, chosen by inverse CDF."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from nanogpt.sampling import SamplingPolicy

Carry = tuple[jax.Array, jax.Array]


def choose_token(logits_BV: jax.Array, uniform_B: jax.Array, policy: SamplingPolicy) -> jax.Array:
    """The token that each uniform number in [0, 1) picks: int32 `[B]`."""
    if policy.temperature == 0:
        return logits_BV.argmax(-1)
    probabilities_BV = nnx.softmax(restrict(logits_BV / policy.temperature, policy))
    cdf_BV = probabilities_BV.cumsum(-1)
    total_B1 = cdf_BV[:, -1:]
    # Rounding may lift the product to the total: a token is never taken beyond the last possible one.
    below_BV = (cdf_BV <= uniform_B[:, None] * total_B1) & (cdf_BV < total_B1)
    return below_BV.sum(-1)


def restrict(logits_BV: jax.Array, policy: SamplingPolicy) -> jax.Array:
    """Logits with -inf for the tokens that top_k, then top_p, rule out: `[B, V]`."""
    if policy.top_k is not None:
        least_B1 = jax.lax.top_k(logits_BV, min(policy.top_k, logits_BV.shape[-1]))[0][:, -1:]
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    if policy.top_p is not None:
        sorted_BV = jnp.sort(logits_BV, descending=True)
        probabilities_BV = nnx.softmax(sorted_BV)
        before_BV = probabilities_BV.cumsum(-1) - probabilities_BV
        count_B1 = (before_BV < policy.top_p).sum(-1, keepdims=True).clip(min=1)
        least_B1 = jnp.take_along_axis(sorted_BV, count_B1 - 1, axis=-1)
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    return logits_BV


@partial(jax.jit, static_argnames="policy")
def continue_window(
    model: nnx.Module,
    window_BT: jax.Array,
    length: jax.Array,
    uniforms_BN: jax.Array,
    policy: SamplingPolicy,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Append N tokens to a window of block_size tokens, of which the first `length` are text.

    Returns the window, its length and the new tokens `[B, N]`. A full window drops its oldest token.
    """

    def append(carry: Carry, uniform_B: jax.Array) -> tuple[Carry, jax.Array]:
        window_BT, length = carry
        # What stands behind the text is not seen by it: the mask is causal.
        logits_BV = model(window_BT)[:, length - 1].astype(jnp.float32)
        token_B = choose_token(logits_BV, uniform_B, policy).astype(window_BT.dtype)
        full = length == window_BT.shape[1]
        window_BT = jnp.where(full, jnp.roll(window_BT, -1, axis=1), window_BT)
        length = length + 1 - full
        return (window_BT.at[:, length - 1].set(token_B), length), token_B

    (window_BT, length), tokens_NB = jax.lax.scan(append, (window_BT, length), uniforms_BN.T)
    return window_BT, length, tokens_NB.T
