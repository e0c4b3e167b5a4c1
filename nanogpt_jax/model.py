"""The model in Flax NNX: the definition, and nothing about devices, precision or speed.

Shape suffixes: B batch, T query position, S key position, C channels, H heads, D channels of a head,
F hidden of the feed-forward network, V vocabulary, L layers. `keys_B2` are dropout keys (dropout.py).
"""

import math

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from nanogpt.config import ModelConfig
from nanogpt_jax.cache import Cache
from nanogpt_jax.dropout import Dropout, fold_in


class GPT(nnx.Module):
    """A decoder-only transformer: embeddings, n_layer blocks, a LayerNorm, a linear head."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.token_embedding = embedding(config.vocab_size, config.n_embd, rngs)
        self.position_embedding = embedding(config.block_size, config.n_embd, rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.n_layer)])
        self.final_norm = layer_norm(config, rngs)
        if not config.tie_weights:
            self.head = linear(config.n_embd, config.vocab_size, False, 0.02, rngs)
        self.tie_weights = config.tie_weights

    def __call__(self, tokens_BT: jax.Array, keys_B2: jax.Array | None = None) -> jax.Array:
        """Logits `[B, T, V]` of the token after each one of `tokens_BT`; with keys, dropout acts."""
        x_BTC = self.embed(tokens_BT)
        for layer, block in enumerate(self.blocks):
            x_BTC = block(x_BTC, fold_in(keys_B2, layer))
        return self.unembed(x_BTC)

    def embed(self, tokens_BT: jax.Array, first: int | jax.Array = 0) -> jax.Array:
        """Sum of the token's and the position's embedding, positions counted from `first`: `[B, T, C]`."""
        positions_T = first + jnp.arange(tokens_BT.shape[1])
        return self.token_embedding(tokens_BT) + self.position_embedding(positions_T)

    def unembed(self, x_BTC: jax.Array) -> jax.Array:
        """Logits `[B, T, V]` of what the last block gives."""
        x_BTC = self.final_norm(x_BTC)
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
        """What each head takes in, before the output projection, without dropout: `[L, B, H, T, D]`."""
        x_BTC = self.embed(tokens_BT)
        heads_LBHTD = []
        for block in self.blocks:
            query_key_value = block.attention.project(block.attention_norm(x_BTC))
            heads_LBHTD.append(block.attention.attend(*query_key_value))
            x_BTC = block(x_BTC)
        return jnp.stack(heads_LBHTD)


class Block(nnx.Module):
    """Attention, then a feed-forward network, each behind a LayerNorm and added to the stream."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = layer_norm(config, rngs)
        self.attention = MultiHeadAttention(config, rngs=rngs)
        self.feed_forward_norm = layer_norm(config, rngs)
        self.feed_forward = FeedForward(config, rngs=rngs)

    def __call__(
        self, x_BTC: jax.Array, keys_B2: jax.Array | None = None, cache: Cache | None = None
    ) -> jax.Array:
        x_BTC = x_BTC + self.attention(self.attention_norm(x_BTC), keys_B2, cache)
        return x_BTC + self.feed_forward(self.feed_forward_norm(x_BTC), keys_B2)


class MultiHeadAttention(nnx.Module):
    """Every position takes in values of itself and of those before it, in n_head ways at once."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.n_head = config.n_head
        self.query_key_value = linear(config.n_embd, 3 * config.n_embd, config.bias, 0.02, rngs)
        self.output = linear(config.n_embd, config.n_embd, config.bias, residual_deviation(config), rngs)
        self.weights_dropout = Dropout(config.dropout)
        self.output_dropout = Dropout(config.dropout)

    def __call__(
        self, x_BTC: jax.Array, keys_B2: jax.Array | None = None, cache: Cache | None = None
    ) -> jax.Array:
        query_BHTD, key_BHTD, value_BHTD = self.project(x_BTC)
        # With a cache, x_BTC are the newest positions alone, and it adds what it keeps of those before.
        first, key_BHSD, value_BHSD = (
            cache.extend(key_BHTD, value_BHTD) if cache else (0, key_BHTD, value_BHTD)
        )
        heads_BHTD = self.attend(query_BHTD, key_BHSD, value_BHSD, first, keys_B2)
        heads_BTC = heads_BHTD.transpose(0, 2, 1, 3).reshape(x_BTC.shape)
        return self.output_dropout(self.output(heads_BTC), fold_in(keys_B2, 1))

    def project(self, x_BTC: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values of every head: each `[B, H, T, D]`."""
        B, T, C = x_BTC.shape
        qkv_BT3HD = self.query_key_value(x_BTC).reshape(B, T, 3, self.n_head, C // self.n_head)
        query_BHTD, key_BHTD, value_BHTD = qkv_BT3HD.transpose(2, 0, 3, 1, 4)
        return query_BHTD, key_BHTD, value_BHTD

    def attend(
        self,
        query_BHTD: jax.Array,
        key_BHSD: jax.Array,
        value_BHSD: jax.Array,
        first: int | jax.Array = 0,
        keys_B2: jax.Array | None = None,
    ) -> jax.Array:
        """What each position takes in: the values, weighted: `[B, H, T, D]`."""
        weights_BHTS = attention_weights(query_BHTD, key_BHSD, first)
        return self.weights_dropout(weights_BHTS, fold_in(keys_B2, 0)) @ value_BHSD

    def weights(self, x_BTC: jax.Array) -> jax.Array:
        """How much each position looks at each other one: `[B, H, T, S]`."""
        query_BHTD, key_BHTD, _ = self.project(x_BTC)
        return attention_weights(query_BHTD, key_BHTD)


class FeedForward(nnx.Module):
    """A hidden layer four times as wide, at each position alone."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.expand = linear(config.n_embd, 4 * config.n_embd, config.bias, 0.02, rngs)
        self.contract = linear(
            4 * config.n_embd, config.n_embd, config.bias, residual_deviation(config), rngs
        )
        self.gelu = config.activation == "gelu"
        self.output_dropout = Dropout(config.dropout)

    def __call__(self, x_BTC: jax.Array, keys_B2: jax.Array | None = None) -> jax.Array:
        hidden_BTF = self.expand(x_BTC)
        hidden_BTF = nnx.gelu(hidden_BTF, approximate=True) if self.gelu else nnx.relu(hidden_BTF)
        return self.output_dropout(self.contract(hidden_BTF), fold_in(keys_B2, 2))


def attention_weights(query_BHTD: jax.Array, key_BHSD: jax.Array, first: int | jax.Array = 0) -> jax.Array:
    """softmax(QK^T / sqrt(D)) under a causal mask: `[B, H, T, S]` (Vaswani et al. 2017, eq. 1).

    Keys stand at positions 0 to S - 1, queries at `first` and after.
    """
    (T, D), S = query_BHTD.shape[-2:], key_BHSD.shape[-2]
    scores_BHTS = query_BHTD / math.sqrt(D) @ key_BHSD.swapaxes(-2, -1)
    mask_TS = jnp.arange(S) <= first + jnp.arange(T)[:, None]
    scores_BHTS = jnp.where(mask_TS, scores_BHTS, -jnp.inf)
    # In float32: bfloat16 loses the small weights.
    return nnx.softmax(scores_BHTS.astype(jnp.float32)).astype(query_BHTD.dtype)


def token_losses(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Cross-entropy of each target in nats, in float32: `[B, T]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits_BTV.astype(jnp.float32), targets_BT)


def embedding(rows: int, n_embd: int, rngs: nnx.Rngs) -> nnx.Embed:
    layer = nnx.Embed(rows, n_embd, embedding_init=nnx.initializers.normal(0.02), rngs=rngs)
    # As in every other layer, that of the weights at work: Flax's own stays float32, and all after it.
    layer.dtype = None
    return layer


def linear(n_in: int, n_out: int, bias: bool, deviation: float, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(n_in, n_out, use_bias=bias, kernel_init=nnx.initializers.normal(deviation), rngs=rngs)


def layer_norm(config: ModelConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # Stated because Flax's own are 1e-6 and E[x^2] - E[x]^2, which loses digits.
    return nnx.LayerNorm(
        config.n_embd, epsilon=1e-5, use_fast_variance=False, use_bias=config.bias, rngs=rngs
    )


def residual_deviation(config: ModelConfig) -> float:
    """Of the projections into the residual stream, whose variance would else grow with depth (GPT-2)."""
    return 0.02 / math.sqrt(2 * config.n_layer)
