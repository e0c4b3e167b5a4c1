"""The model in PyTorch: the definition, and nothing about devices, precision or speed.

Shape suffixes: B batch, T query position, S key position, C channels, H heads, D channels of a head,
F hidden of the feed-forward network, V vocabulary, L layers. `keys_B2` are dropout keys (dropout.py).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.init import normal_

from nanogpt.config import ModelConfig
from nanogpt_torch.cache import Cache
from nanogpt_torch.dropout import Dropout, fold_in


class GPT(nn.Module):
    """A decoder-only transformer: embeddings, n_layer blocks, a LayerNorm, a linear head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token_embedding = embedding(config.vocab_size, config.n_embd)
        self.position_embedding = embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.final_norm = layer_norm(config)
        if not config.tie_weights:
            self.head = linear(config.n_embd, config.vocab_size, False, 0.02)
        self.tie_weights = config.tie_weights

    def forward(self, tokens_BT: Tensor, keys_B2: Tensor | None = None) -> Tensor:
        """Logits `[B, T, V]` of the token after each one of `tokens_BT`; with keys, dropout acts."""
        x_BTC = self.embed(tokens_BT)
        for layer, block in enumerate(self.blocks):
            x_BTC = block(x_BTC, fold_in(keys_B2, layer))
        return self.unembed(x_BTC)

    def embed(self, tokens_BT: Tensor, first: int = 0) -> Tensor:
        """Sum of the token's and the position's embedding, positions counted from `first`: `[B, T, C]`."""
        positions_T = first + torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        return self.token_embedding(tokens_BT) + self.position_embedding(positions_T)

    def unembed(self, x_BTC: Tensor) -> Tensor:
        """Logits `[B, T, V]` of what the last block gives."""
        x_BTC = self.final_norm(x_BTC)
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
        """What each head takes in, before the output projection, without dropout: `[L, B, H, T, D]`."""
        x_BTC = self.embed(tokens_BT)
        heads_LBHTD = []
        for block in self.blocks:
            query_key_value = block.attention.project(block.attention_norm(x_BTC))
            heads_LBHTD.append(block.attention.attend(*query_key_value))
            x_BTC = block(x_BTC)
        return torch.stack(heads_LBHTD)


class Block(nn.Module):
    """Attention, then a feed-forward network, each behind a LayerNorm and added to the stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = layer_norm(config)
        self.attention = MultiHeadAttention(config)
        self.feed_forward_norm = layer_norm(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x_BTC: Tensor, keys_B2: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        x_BTC = x_BTC + self.attention(self.attention_norm(x_BTC), keys_B2, cache)
        return x_BTC + self.feed_forward(self.feed_forward_norm(x_BTC), keys_B2)


class MultiHeadAttention(nn.Module):
    """Every position takes in values of itself and of those before it, in n_head ways at once."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.query_key_value = linear(config.n_embd, 3 * config.n_embd, config.bias, 0.02)
        self.output = linear(config.n_embd, config.n_embd, config.bias, residual_deviation(config))
        self.weights_dropout = Dropout(config.dropout)
        self.output_dropout = Dropout(config.dropout)

    def forward(self, x_BTC: Tensor, keys_B2: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        query_BHTD, key_BHTD, value_BHTD = self.project(x_BTC)
        # With a cache, x_BTC are the newest positions alone, and it adds what it keeps of those before.
        first, key_BHSD, value_BHSD = (
            cache.extend(key_BHTD, value_BHTD) if cache else (0, key_BHTD, value_BHTD)
        )
        heads_BHTD = self.attend(query_BHTD, key_BHSD, value_BHSD, first, keys_B2)
        heads_BTC = heads_BHTD.transpose(1, 2).reshape(x_BTC.shape)
        return self.output_dropout(self.output(heads_BTC), fold_in(keys_B2, 1))

    def project(self, x_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of every head: each `[B, H, T, D]`."""
        B, T, C = x_BTC.shape
        qkv_BT3HD = self.query_key_value(x_BTC).reshape(B, T, 3, self.n_head, C // self.n_head)
        query_BHTD, key_BHTD, value_BHTD = qkv_BT3HD.permute(2, 0, 3, 1, 4)
        return query_BHTD, key_BHTD, value_BHTD

    def attend(
        self,
        query_BHTD: Tensor,
        key_BHSD: Tensor,
        value_BHSD: Tensor,
        first: int = 0,
        keys_B2: Tensor | None = None,
    ) -> Tensor:
        """What each position takes in: the values, weighted: `[B, H, T, D]`."""
        weights_BHTS = attention_weights(query_BHTD, key_BHSD, first)
        return self.weights_dropout(weights_BHTS, fold_in(keys_B2, 0)) @ value_BHSD

    def weights(self, x_BTC: Tensor) -> Tensor:
        """How much each position looks at each other one: `[B, H, T, S]`."""
        query_BHTD, key_BHTD, _ = self.project(x_BTC)
        return attention_weights(query_BHTD, key_BHTD)


class FeedForward(nn.Module):
    """A hidden layer four times as wide, at each position alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.expand = linear(config.n_embd, 4 * config.n_embd, config.bias, 0.02)
        self.contract = linear(4 * config.n_embd, config.n_embd, config.bias, residual_deviation(config))
        self.gelu = config.activation == "gelu"
        self.output_dropout = Dropout(config.dropout)

    def forward(self, x_BTC: Tensor, keys_B2: Tensor | None = None) -> Tensor:
        hidden_BTF = self.expand(x_BTC)
        hidden_BTF = F.gelu(hidden_BTF, approximate="tanh") if self.gelu else F.relu(hidden_BTF)
        return self.output_dropout(self.contract(hidden_BTF), fold_in(keys_B2, 2))


def attention_weights(query_BHTD: Tensor, key_BHSD: Tensor, first: int = 0) -> Tensor:
    """softmax(QK^T / sqrt(D)) under a causal mask: `[B, H, T, S]` (Vaswani et al. 2017, eq. 1).

    Keys stand at positions 0 to S - 1, queries at `first` and after.
    """
    (T, D), S = query_BHTD.shape[-2:], key_BHSD.shape[-2]
    scores_BHTS = query_BHTD / math.sqrt(D) @ key_BHSD.transpose(-2, -1)
    mask_TS = torch.ones(T, S, dtype=torch.bool, device=scores_BHTS.device).tril(first)
    scores_BHTS = scores_BHTS.masked_fill(~mask_TS, -math.inf)
    # In float32: bfloat16 loses the small weights.
    return F.softmax(scores_BHTS.float(), dim=-1).to(query_BHTD.dtype)


def token_losses(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Cross-entropy of each target in nats, in float32: `[B, T]`."""
    flat = F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction="none")
    return flat.view_as(targets_BT)


def embedding(rows: int, n_embd: int) -> nn.Embedding:
    layer = nn.Embedding(rows, n_embd)
    normal_(layer.weight, std=0.02)
    return layer


def linear(n_in: int, n_out: int, bias: bool, deviation: float) -> nn.Linear:
    layer = nn.Linear(n_in, n_out, bias=bias)
    normal_(layer.weight, std=deviation)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.n_embd, eps=1e-5, bias=config.bias)


def residual_deviation(config: ModelConfig) -> float:
    """Of the projections into the residual stream, whose variance would else grow with depth (GPT-2)."""
    return 0.02 / math.sqrt(2 * config.n_layer)
