"""The model in Flax NNX: the definition, and nothing about devices, precision or speed.

Shape suffixes: B batch, T query position, S key position, C channels, H heads, D channels of a head,
F hidden of the feed-forward network, V vocabulary, L layers. `keys_B2` are dropout keys (dropout.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from nanogpt.config import ModelConfig
from nanogpt_jax.cache import Cache
from nanogpt_jax.dropout import Dropout, fold_in


class GPT(nnx.Module):
    """A decoder-only transformer: embeddings, n_layer blocks, a LayerNorm, a linear head."""

    def __init__(self, config: ModelConfig, kernels: "Kernels | None" = None, *, rngs: nnx.Rngs) -> None:
        kernels = kernels or Kernels()
        self.token_embedding = embedding(kernels, config.vocab_size, config.n_embd, rngs)
        self.position_embedding = embedding(kernels, config.block_size, config.n_embd, rngs)
        self.blocks = nnx.List([kernels.block(config, kernels, rngs=rngs) for _ in range(config.n_layer)])
        self.final_norm = layer_norm(config, rngs)
        if not config.tie_weights:
            self.head = linear(kernels, config.n_embd, config.vocab_size, False, 0.02, rngs)
        self.tie_weights = config.tie_weights

    def __call__(self, tokens_BT: jax.Array, keys_B2: jax.Array | None = None) -> jax.Array:
        """Logits `[B, T, V]` of the token after each one of `tokens_BT`; with keys, dropout acts."""
        x_BTC = self.embed(tokens_BT)
        for layer, block in enumerate(self.blocks):
            x_BTC = block(x_BTC, fold_in(keys_B2, layer))
        return self.unembed(x_BTC)

    def embed(self, tokens_BT: jax.Array, first: int | jax.Array = 0) -> jax.Array:
        """Sum of each token's and its position's embedding, positions counted from `first`: `[B, T, C]`."""
        positions_T = first + jnp.arange(tokens_BT.shape[1])
        return self.token_embedding(tokens_BT) + self.position_embedding(positions_T)

    def unembed(self, x_BTC: jax.Array) -> jax.Array:
        """Logits `[B, T, V]` from the output of the last block."""
        x_BTC = self.final_norm(x_BTC)
        # Differs from torch: Flax has a method for the product with an embedding's own matrix.
        return self.token_embedding.attend(x_BTC) if self.tie_weights else self.head(x_BTC)

    def attention(self, tokens_BT: jax.Array) -> jax.Array:
        """Attention weights of every layer and head, without dropout: `[L, B, H, T, S]`."""
        x_BTC = self.embed(tokens_BT)
        weights_LBHTS = []
        for block in self.blocks:
            weights_LBHTS.append(block.attention.weights(block.attention_norm(x_BTC)))
            x_BTC = block(x_BTC)
        return jnp.stack(weights_LBHTS)

    def head_outputs(self, tokens_BT: jax.Array) -> jax.Array:
        """The output of every head, before the output projection, without dropout: `[L, B, H, T, D]`."""
        x_BTC = self.embed(tokens_BT)
        heads_LBHTD = []
        for block in self.blocks:
            heads_LBHTD.append(block.attention.heads(block.attention_norm(x_BTC)))
            x_BTC = block(x_BTC)
        return jnp.stack(heads_LBHTD)


class Block(nnx.Module):
    """Attention, then a feed-forward network, each behind a LayerNorm and added to the stream."""

    def __init__(self, config: ModelConfig, kernels: "Kernels", *, rngs: nnx.Rngs) -> None:
        self.attention_norm = layer_norm(config, rngs)
        self.attention = MultiHeadAttention(config, kernels, rngs=rngs)
        self.feed_forward_norm = layer_norm(config, rngs)
        self.feed_forward = FeedForward(config, kernels, rngs=rngs)

    def __call__(
        self, x_BTC: jax.Array, keys_B2: jax.Array | None = None, cache: Cache | None = None
    ) -> jax.Array:
        x_BTC = x_BTC + self.attention(self.attention_norm(x_BTC), keys_B2, cache)
        return x_BTC + self.feed_forward(self.feed_forward_norm(x_BTC), keys_B2)


class MultiHeadAttention(nnx.Module):
    """Every position gathers values from itself and from earlier positions, in n_head ways at once."""

    def __init__(self, config: ModelConfig, kernels: "Kernels", *, rngs: nnx.Rngs) -> None:
        C, deviation = config.n_embd, residual_deviation(config)
        self.n_head, self.attend = config.n_head, kernels.attend
        self.query_key_value = linear(kernels, C, 3 * C, config.bias, 0.02, rngs)
        self.output = linear(kernels, C, C, config.bias, deviation, rngs)
        self.weights_dropout = Dropout(config.attention_dropout)
        self.output_dropout = Dropout(config.dropout)

    def __call__(
        self, x_BTC: jax.Array, keys_B2: jax.Array | None = None, cache: Cache | None = None
    ) -> jax.Array:
        heads_BHTD = self.heads(x_BTC, keys_B2, cache)
        # The heads stand side by side again: C = H * D.
        heads_BTC = heads_BHTD.swapaxes(1, 2).reshape(x_BTC.shape)
        return self.output_dropout(self.output(heads_BTC), fold_in(keys_B2, 1))

    def heads(
        self, x_BTC: jax.Array, keys_B2: jax.Array | None = None, cache: Cache | None = None
    ) -> jax.Array:
        """The output of every head: `[B, H, T, D]`."""
        query_BHTD, key_BHSD, value_BHSD = self.project(x_BTC)
        first: int | jax.Array = 0
        if cache:  # x_BTC holds the newest positions alone; the cache puts the earlier keys before theirs
            first, key_BHSD, value_BHSD = cache.extend(key_BHSD, value_BHSD)
        return self.attend(query_BHTD, key_BHSD, value_BHSD, first, self.weights_dropout, fold_in(keys_B2, 0))

    def project(self, x_BTC: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values of every head: each `[B, H, T, D]`."""
        B, T, C = x_BTC.shape
        # One matmul computes all three for all heads; then each head gets its D channels.
        qkv_BT3HD = self.query_key_value(x_BTC).reshape(B, T, 3, self.n_head, C // self.n_head)
        query_BHTD, key_BHTD, value_BHTD = qkv_BT3HD.transpose(2, 0, 3, 1, 4)
        return query_BHTD, key_BHTD, value_BHTD

    def weights(self, x_BTC: jax.Array) -> jax.Array:
        """The attention weights of every head, without dropout: `[B, H, T, S]`."""
        query_BHTD, key_BHTD, _ = self.project(x_BTC)
        return attention_weights(query_BHTD, key_BHTD)


class FeedForward(nnx.Module):
    """A hidden layer four times as wide, at each position alone."""

    def __init__(self, config: ModelConfig, kernels: "Kernels", *, rngs: nnx.Rngs) -> None:
        C, deviation = config.n_embd, residual_deviation(config)
        self.expand = linear(kernels, C, 4 * C, config.bias, 0.02, rngs)
        self.contract = linear(kernels, 4 * C, C, config.bias, deviation, rngs)
        self.gelu = config.activation == "gelu"
        self.output_dropout = Dropout(config.dropout)

    def __call__(self, x_BTC: jax.Array, keys_B2: jax.Array | None = None) -> jax.Array:
        hidden_BTF = self.expand(x_BTC)
        # Differs from torch: both know two forms of GELU and name them otherwise; GPT-2's is the tanh form.
        hidden_BTF = nnx.gelu(hidden_BTF, approximate=True) if self.gelu else nnx.relu(hidden_BTF)
        return self.output_dropout(self.contract(hidden_BTF), fold_in(keys_B2, 2))


def attend(
    query_BHTD: jax.Array,
    key_BHSD: jax.Array,
    value_BHSD: jax.Array,
    first: int | jax.Array,
    dropout: Dropout,
    keys_B2: jax.Array | None,
) -> jax.Array:
    """The values that each query gathers, weighted by its attention: `[B, H, T, D]`.

    Keys stand at positions 0 to S - 1, queries at `first` and after. `dropout` acts on the weights.
    """
    weights_BHTS = attention_weights(query_BHTD, key_BHSD, first)
    return dropout(weights_BHTS, keys_B2) @ value_BHSD


def attention_weights(query_BHTD: jax.Array, key_BHSD: jax.Array, first: int | jax.Array = 0) -> jax.Array:
    """softmax(QK^T / sqrt(D)) under a causal mask: `[B, H, T, S]` (Vaswani et al. 2017, eq. 1)."""
    (T, D), S = query_BHTD.shape[-2:], key_BHSD.shape[-2]
    scores_BHTS = query_BHTD / math.sqrt(D) @ key_BHSD.swapaxes(-2, -1)
    # A query sees the keys up to its own position; exp(-inf) = 0 hides the later ones.
    mask_TS = jnp.arange(S) <= first + jnp.arange(T)[:, None]
    scores_BHTS = jnp.where(mask_TS, scores_BHTS, -math.inf)
    # In float32: bfloat16 loses the small weights.
    return nnx.softmax(scores_BHTS.astype(jnp.float32), axis=-1).astype(query_BHTD.dtype)


@dataclass(frozen=True)
class Kernels:
    """The parts that a backend may exchange for faster ones (kernels.py); the defaults are the definition."""

    attend: Callable[..., jax.Array] = attend
    embedding: type[nnx.Embed] = nnx.Embed
    linear: type[nnx.Linear] = nnx.Linear
    block: type[Block] = Block


def token_losses(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Cross-entropy of each target in nats, in float32: `[B, T]`."""
    # Differs from torch: written out, the loss has a gradient that XLA computes in one pass over the logits.
    # optax picks the target's logit by its index, whose gradient is two more passes.
    logits_BTV = logits_BTV.astype(jnp.float32)
    is_target_BTV = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - jnp.where(is_target_BTV, logits_BTV, 0).sum(axis=-1)


def embedding(kernels: "Kernels", rows: int, n_embd: int, rngs: nnx.Rngs) -> nnx.Embed:
    # Differs from torch: an initializer is an argument here, and torch fills the weights afterwards.
    layer = kernels.embedding(rows, n_embd, embedding_init=nnx.initializers.normal(0.02), rngs=rngs)
    # Flax's own dtype is float32, to which it would promote bfloat16 weights and all that follows.
    layer.dtype = None
    return layer


def linear(
    kernels: "Kernels", n_in: int, n_out: int, bias: bool, deviation: float, rngs: nnx.Rngs
) -> nnx.Linear:
    # Differs from torch: an initializer is an argument here, and biases start at 0 by default.
    initializer = nnx.initializers.normal(deviation)
    return kernels.linear(n_in, n_out, use_bias=bias, kernel_init=initializer, rngs=rngs)


def layer_norm(config: ModelConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # Differs from torch: Flax's own epsilon is 1e-6, and its fast variance E[x^2] - E[x]^2 loses digits.
    return nnx.LayerNorm(
        config.n_embd, epsilon=1e-5, use_fast_variance=False, use_bias=config.bias, rngs=rngs
    )


def residual_deviation(config: ModelConfig) -> float:
    """The start of projections into the residual stream: its variance would else grow with depth (GPT-2)."""
    return 0.02 / math.sqrt(2 * config.n_layer)
