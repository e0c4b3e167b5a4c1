"""Faster parts for the model, each with the signature of its definition in model.py; backend.py chooses.

model = GPT(config, Kernels(attend=attend_in_chunks))
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nanogpt.config import ModelConfig
from nanogpt.micro_batches import LOGITS_AT_ONCE, micro_batch_rows
from nanogpt.randomness import normals
from nanogpt_torch.dropout import Dropout, fold_in, positions
from nanogpt_torch.model import GPT, Block, Kernels, attend, attention_weights, token_losses

# Each query chunk attends only to the keys up to its end: half the pairs that the causal mask hides are never
# computed. More chunks save more of them, and cost more than that.
CHUNKS = 2


def attend_in_chunks(
    query_BHTD: Tensor,
    key_BHSD: Tensor,
    value_BHSD: Tensor,
    first: int,
    dropout: Dropout,
    keys_B2: Tensor | None,
) -> Tensor:
    """`attend` for whole windows, chunk by chunk; the definition computes everything else."""
    (H, T), S = query_BHTD.shape[1:3], key_BHSD.shape[2]
    if T != S or T < 8 * CHUNKS:
        return attend(query_BHTD, key_BHSD, value_BHSD, first, dropout, keys_B2)
    index_1HTS = positions((H, T, S), device=query_BHTD.device)
    heads_BHTD = []
    for chunk in range(CHUNKS):
        start, stop = T * chunk // CHUNKS, T * (chunk + 1) // CHUNKS
        weights_BHTS = attention_weights(query_BHTD[:, :, start:stop], key_BHSD[:, :, :stop], start)
        weights_BHTS = dropout(weights_BHTS, keys_B2, index_1HTS[:, :, start:stop, :stop])
        heads_BHTD.append(weights_BHTS @ value_BHSD[:, :, :stop])
    return torch.concatenate(heads_BHTD, dim=2)


def attend_fused(
    query_BHTD: Tensor,
    key_BHSD: Tensor,
    value_BHSD: Tensor,
    first: int,
    dropout: Dropout,
    keys_B2: Tensor | None,
    otherwise: Callable[..., Tensor] = attend,
) -> Tensor:
    """`attend` by torch's fused kernel for whole windows or one query, without dropout; else `otherwise`."""
    T, S = query_BHTD.shape[2], key_BHSD.shape[2]
    # Differs from jax: a single query too, for its cache holds no empty room.
    if (1 < T != S) or (keys_B2 is not None and dropout.rate > 0):
        return otherwise(query_BHTD, key_BHSD, value_BHSD, first, dropout, keys_B2)
    return _fused(query_BHTD, key_BHSD, value_BHSD)


def _fused(query_BHTD: Tensor, key_BHSD: Tensor, value_BHSD: Tensor) -> Tensor:
    """Attention of whole windows under the causal mask; or of the newest query, which sees every key."""
    # Differs from jax: on a CPU the kernel is faster in float32 than in bfloat16, and on MPS it is wrong on
    # what is not contiguous (pytorch#163597).
    dtype = torch.float32 if query_BHTD.device.type == "cpu" else query_BHTD.dtype
    query, key, value = (x.to(dtype).contiguous() for x in (query_BHTD, key_BHSD, value_BHSD))
    heads_BHTD = F.scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] > 1)
    return heads_BHTD.to(query_BHTD.dtype)


@torch.no_grad()
def fused_attention_is_right(config: ModelConfig, device: str, dtype: torch.dtype) -> bool:
    """True if the fused kernel runs here, equals the definition, and lets no position see a later one.

    On MPS it once let them, in half precision (pytorch#195910). Otherwise a line on standard error says why
    the definition computes instead.
    """
    T, D = config.block_size, config.n_embd // config.n_head
    query, key, value = (
        torch.from_numpy(normals(0, f"self-test/{name}", 0, T * D)).to(device, dtype).reshape(1, 1, T, D)
        for name in ("query", "key", "value")
    )
    # Differs from jax: float32 has a fused kernel too, which TF32 makes inexact.
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    try:
        problem = _problem(query, key, value, tolerance=1e-5 if exact else 5e-2)
    except (RuntimeError, ValueError, NotImplementedError) as error:  # no kernel for this device
        problem = f"is not available ({str(error).splitlines()[0]})"
    if problem:
        print(f"torch's fused attention {problem} on {device}: using the plain one", file=sys.stderr)
    return not problem


def _problem(query: Tensor, key: Tensor, value: Tensor, tolerance: float) -> str | None:
    """The first way in which the fused kernel is wrong for `[1, 1, T, D]`, if there is one."""
    T = query.shape[2]
    before = _fused(query, key, value)
    plain = attention_weights(query, key) @ value
    if not abs(before - plain).max() <= tolerance:  # a NaN is no more right than a large number
        return "differs from the definition"
    # Differs from jax: the kernel also takes one query.
    if not abs(_fused(query[:, :, -1:], key, value) - plain[:, :, -1:]).max() <= tolerance:
        return "differs from the definition for one query"
    for t in (1, T // 2, T - 1):
        # A change of all keys and values from t on must change nothing before t.
        is_later_T1 = (torch.arange(T, device=query.device) >= t)[:, None]
        after = _fused(
            query, torch.where(is_later_T1, key + 1, key), torch.where(is_later_T1, value - 1, value)
        )
        if (after[:, :, :t] != before[:, :, :t]).any():
            return "lets positions see later ones"
    return None


class CompiledBlock(Block):
    """A block that torch.compile compiles: one program serves every layer."""

    # Differs from jax: only blocks are compiled, for torch takes minutes to compile a whole model.
    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__(config, kernels)
        from torch._functorch import config as functorch  # takes time to import

        # The backward pass computes masks again: inductor takes longer to write and read their bytes.
        functorch.aggressive_recomputation = True
        self.compile()


def onednn_is_faster() -> bool:
    """True on the kind of CPU where `OneDnnLinear` gains."""
    # Differs from jax: torch has two matmul libraries for CPUs, and chooses MKL's by itself.
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


class OneDnnLinear(nn.Linear):
    """A linear layer whose matmuls are oneDNN's: MKL's took twice as long on an AMD CPU with AVX-512."""

    # Differs from jax: XLA has one matmul for a CPU.
    def forward(self, x: Tensor) -> Tensor:
        if x.numel() < 64 * self.in_features or x.dtype != torch.float32:
            return super().forward(x)
        y = torch.ops.nanogpt.matmul(x, self.weight)
        return y if self.bias is None else y + self.bias


# Differs from jax: torch's own way to oneDNN has no gradients. Our operation has, and torch.compile leaves it
# as it is.
torch.library.define("nanogpt::matmul", "(Tensor x, Tensor weight) -> Tensor")


@torch.library.impl("nanogpt::matmul", "cpu")
def _matmul(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T`: `[..., out]` of `[..., in]` and `[out, in]`."""
    # Differs from jax: it calls oneDNN.
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


@torch.library.register_fake("nanogpt::matmul")
def _shape_of_matmul(x: Tensor, weight: Tensor) -> Tensor:
    # Differs from jax: torch.compile asks for the shape.
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    # Differs from jax: an operation of one's own says what its backward pass needs.
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    # Differs from jax: an operation of one's own has a backward pass of one's own.
    x, weight = ctx.saved_tensors
    # MKL's takes transposed matrices as they are; oneDNN's would copy both.
    by_weight = gradient.flatten(0, -2).t() @ x.flatten(0, -2)
    return torch.ops.nanogpt.matmul(gradient, weight.t()), by_weight


# Differs from jax: torch keeps a table of operations.
torch.library.register_autograd("nanogpt::matmul", _backward, setup_context=_save_for_backward)


def recomputed_losses(model: GPT, tokens_BT1: Tensor, keys_B2: Tensor | None) -> Tensor:
    """Loss in nats of each token after the first, with little memory: `[B, T]`.

    The forward pass keeps the input of each block, and the backward pass computes the rest again (Chen et al.
    2016, https://arxiv.org/abs/1604.06174). Logits exist for a chunk of the tokens at a time.
    """
    # Differs from jax: torch would keep its generator's state too, which nothing here draws from.
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    x_BTC, targets_BT = model.embed(tokens_BT1[:, :-1]), tokens_BT1[:, 1:]
    for layer, block in enumerate(model.blocks):
        x_BTC = again(block, x_BTC, fold_in(keys_B2, layer))

    def losses(x_1RC: Tensor, targets_1R: Tensor) -> Tensor:
        return token_losses(model.unembed(x_1RC), targets_1R)

    rows = micro_batch_rows(targets_BT.numel(), model.token_embedding.num_embeddings, LOGITS_AT_ONCE)
    chunks = x_BTC.view(1, -1, x_BTC.shape[-1]).split(rows, 1), targets_BT.reshape(1, -1).split(rows, 1)
    losses_1N = torch.cat([again(losses, *chunk) for chunk in zip(*chunks, strict=True)], 1)
    return losses_1N.view(targets_BT.shape)
