"""The model in PyTorch: the definition, and nothing about devices, precision or speed.

Shape suffixes: B batch, T query position, S key position, C channels, H heads, D channels of a head,
F hidden of the feed-forward network, V vocabulary, L layers. `keys_B2` are dropout keys (dropout.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.init import normal_, zeros_

from nanogpt.config import ModelConfig
from nanogpt_torch.cache import Cache
from nanogpt_torch.dropout import Dropout, fold_in


class GPT(nn.Module):
    """A decoder-only transformer: embeddings, n_layer blocks, a LayerNorm, a linear head."""

    def __init__(self, config: ModelConfig, kernels: "Kernels | None" = None) -> None:
        super().__init__()
        kernels = kernels or Kernels()
        self.token_embedding = embedding(kernels, config.vocab_size, config.n_embd)
        self.position_embedding = embedding(kernels, config.block_size, config.n_embd)
        self.blocks = nn.ModuleList([kernels.block(config, kernels) for _ in range(config.n_layer)])
        self.final_norm = layer_norm(config)
        if not config.tie_weights:
            self.head = linear(kernels, config.n_embd, config.vocab_size, False, 0.02)
        self.tie_weights = config.tie_weights

    def forward(self, tokens_BT: Tensor, keys_B2: Tensor | None = None) -> Tensor:
        """Logits `[B, T, V]` of the token after each one of `tokens_BT`; with keys, dropout acts."""
        x_BTC = self.embed(tokens_BT)
        for layer, block in enumerate(self.blocks):
            x_BTC = block(x_BTC, fold_in(keys_B2, layer))
        return self.unembed(x_BTC)

    def embed(self, tokens_BT: Tensor, first: int = 0) -> Tensor:
        """Sum of each token's and its position's embedding, positions counted from `first`: `[B, T, C]`."""
        positions_T = first + torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        return self.token_embedding(tokens_BT) + self.position_embedding(positions_T)

    def unembed(self, x_BTC: Tensor) -> Tensor:
        """Logits `[B, T, V]` from the output of the last block."""
        x_BTC = self.final_norm(x_BTC)
        # Differs from jax: an embedding has no method for the product with its own matrix.
        return F.linear(x_BTC, self.token_embedding.weight) if self.tie_weights else self.head(x_BTC)

    def attention(self, tokens_BT: Tensor) -> Tensor:
        """Attention weights of every layer and head, without dropout: `[L, B, H, T, S]`."""
        x_BTC = self.embed(tokens_BT)
        weights_LBHTS = []
        for block in self.blocks:
            weights_LBHTS.append(block.attention.weights(block.attention_norm(x_BTC)))
            x_BTC = block(x_BTC)
        return torch.stack(weights_LBHTS)

    def head_outputs(self, tokens_BT: Tensor) -> Tensor:
        """The output of every head, before the output projection, without dropout: `[L, B, H, T, D]`."""
        x_BTC = self.embed(tokens_BT)
        heads_LBHTD = []
        for block in self.blocks:
            heads_LBHTD.append(block.attention.heads(block.attention_norm(x_BTC)))
            x_BTC = block(x_BTC)
        return torch.stack(heads_LBHTD)


class Block(nn.Module):
    """Attention, then a feed-forward network, each behind a LayerNorm and added to the stream."""

    def __init__(self, config: ModelConfig, kernels: "Kernels") -> None:
        super().__init__()
        self.attention_norm = layer_norm(config)
        self.attention = MultiHeadAttention(config, kernels)
        self.feed_forward_norm = layer_norm(config)
        self.feed_forward = FeedForward(config, kernels)

    def forward(self, x_BTC: Tensor, keys_B2: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        x_BTC = x_BTC + self.attention(self.attention_norm(x_BTC), keys_B2, cache)
        return x_BTC + self.feed_forward(self.feed_forward_norm(x_BTC), keys_B2)


class MultiHeadAttention(nn.Module):
    """Every position gathers values from itself and from earlier positions, in n_head ways at once."""

    def __init__(self, config: ModelConfig, kernels: "Kernels") -> None:
        super().__init__()
        C, deviation = config.n_embd, residual_deviation(config)
        self.n_head, self.attend = config.n_head, kernels.attend
        self.query_key_value = linear(kernels, C, 3 * C, config.bias, 0.02)
        self.output = linear(kernels, C, C, config.bias, deviation)
        self.weights_dropout = Dropout(config.attention_dropout)
        self.output_dropout = Dropout(config.dropout)

    def forward(self, x_BTC: Tensor, keys_B2: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        heads_BHTD = self.heads(x_BTC, keys_B2, cache)
        # The heads stand side by side again: C = H * D.
        heads_BTC = heads_BHTD.swapaxes(1, 2).reshape(x_BTC.shape)
        return self.output_dropout(self.output(heads_BTC), fold_in(keys_B2, 1))

    def heads(self, x_BTC: Tensor, keys_B2: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """The output of every head: `[B, H, T, D]`."""
        query_BHTD, key_BHSD, value_BHSD = self.project(x_BTC)
        first: int = 0
        if cache:  # x_BTC holds the newest positions alone; the cache puts the earlier keys before theirs
            first, key_BHSD, value_BHSD = cache.extend(key_BHSD, value_BHSD)
        return self.attend(query_BHTD, key_BHSD, value_BHSD, first, self.weights_dropout, fold_in(keys_B2, 0))

    def project(self, x_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of every head: each `[B, H, T, D]`."""
        B, T, C = x_BTC.shape
        # One matmul computes all three for all heads; then each head gets its D channels.
        qkv_BT3HD = self.query_key_value(x_BTC).reshape(B, T, 3, self.n_head, C // self.n_head)
        query_BHTD, key_BHTD, value_BHTD = qkv_BT3HD.permute(2, 0, 3, 1, 4)
        return query_BHTD, key_BHTD, value_BHTD

    def weights(self, x_BTC: Tensor) -> Tensor:
        """The attention weights of every head, without dropout: `[B, H, T, S]`."""
        query_BHTD, key_BHTD, _ = self.project(x_BTC)
        return attention_weights(query_BHTD, key_BHTD)


class FeedForward(nn.Module):
    """A hidden layer four times as wide, at each position alone."""

    def __init__(self, config: ModelConfig, kernels: "Kernels") -> None:
        super().__init__()
        C, deviation = config.n_embd, residual_deviation(config)
        self.expand = linear(kernels, C, 4 * C, config.bias, 0.02)
        self.contract = linear(kernels, 4 * C, C, config.bias, deviation)
        self.gelu = config.activation == "gelu"
        self.output_dropout = Dropout(config.dropout)

    def forward(self, x_BTC: Tensor, keys_B2: Tensor | None = None) -> Tensor:
        hidden_BTF = self.expand(x_BTC)
        # Differs from jax: both know two forms of GELU and name them otherwise; GPT-2's is the tanh form.
        hidden_BTF = F.gelu(hidden_BTF, approximate="tanh") if self.gelu else F.relu(hidden_BTF)
        return self.output_dropout(self.contract(hidden_BTF), fold_in(keys_B2, 2))


def attend(
    query_BHTD: Tensor,
    key_BHSD: Tensor,
    value_BHSD: Tensor,
    first: int,
    dropout: Dropout,
    keys_B2: Tensor | None,
) -> Tensor:
    """The values that each query gathers, weighted by its attention: `[B, H, T, D]`.

    Keys stand at positions 0 to S - 1, queries at `first` and after. `dropout` acts on the weights.
    """
    weights_BHTS = attention_weights(query_BHTD, key_BHSD, first)
    return dropout(weights_BHTS, keys_B2) @ value_BHSD


def attention_weights(query_BHTD: Tensor, key_BHSD: Tensor, first: int = 0) -> Tensor:
    """softmax(QK^T / sqrt(D)) under a causal mask: `[B, H, T, S]` (Vaswani et al. 2017, eq. 1)."""
    (T, D), S = query_BHTD.shape[-2:], key_BHSD.shape[-2]
    scores_BHTS = query_BHTD / math.sqrt(D) @ key_BHSD.swapaxes(-2, -1)
    # A query sees the keys up to its own position; exp(-inf) = 0 hides the later ones.
    # Differs from jax: a new tensor is put where the others are.
    device = scores_BHTS.device
    mask_TS = torch.arange(S, device=device) <= first + torch.arange(T, device=device)[:, None]
    scores_BHTS = torch.where(mask_TS, scores_BHTS, -math.inf)
    # In float32: bfloat16 loses the small weights.
    return F.softmax(scores_BHTS.to(torch.float32), dim=-1).to(query_BHTD.dtype)


@dataclass(frozen=True)
class Kernels:
    """The parts that a backend may exchange for faster ones (kernels.py); the defaults are the definition."""

    attend: Callable[..., Tensor] = attend
    embedding: type[nn.Embedding] = nn.Embedding
    linear: type[nn.Linear] = nn.Linear
    block: type[Block] = Block


def token_losses(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Cross-entropy of each target in nats, in float32: `[B, T]`."""
    # Differs from jax: cross entropy takes flat rows and classes only.
    flat = F.cross_entropy(logits_BTV.to(torch.float32).flatten(0, 1), targets_BT.flatten(), reduction="none")
    return flat.view_as(targets_BT)


def embedding(kernels: "Kernels", rows: int, n_embd: int) -> nn.Embedding:
    # Differs from jax: weights are filled after the layer is made.
    layer = kernels.embedding(rows, n_embd)
    normal_(layer.weight, std=0.02)
    return layer


def linear(kernels: "Kernels", n_in: int, n_out: int, bias: bool, deviation: float) -> nn.Linear:
    # Differs from jax: weights are filled after the layer is made, and torch's biases don't start at 0.
    layer = kernels.linear(n_in, n_out, bias=bias)
    normal_(layer.weight, std=deviation)
    if bias:
        zeros_(layer.bias)
    return layer


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    # Differs from jax: 1e-5 is torch's own epsilon, stated here because Flax's is another.
    return nn.LayerNorm(config.n_embd, eps=1e-5, bias=config.bias)


def residual_deviation(config: ModelConfig) -> float:
    """The start of projections into the residual stream: its variance would else grow with depth (GPT-2)."""
    return 0.02 / math.sqrt(2 * config.n_layer)
