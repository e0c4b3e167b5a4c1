"""What backend.py puts in the place of parts of model.py: the same numbers, sooner."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanogpt.config import ModelConfig
from nanogpt.randomness import normals
from nanogpt_torch.dropout import Dropout, fold_in, positions
from nanogpt_torch.model import attention_weights

# Queries come in so many chunks, each of which meets the keys up to its own end: of the pairs that the causal
# mask throws away, half are never computed. More chunks spare more of them, and cost more than that.
CHUNKS = 2


def attend_in_chunks(
    plain: Callable[..., Tensor],
    dropout: Dropout,
    query_BHTD: Tensor,
    key_BHSD: Tensor,
    value_BHSD: Tensor,
    first: int = 0,
    keys_B2: Tensor | None = None,
) -> Tensor:
    """What `plain`, MultiHeadAttention.attend, gives for whole windows; `dropout` is that of its weights."""
    H, T = query_BHTD.shape[1:3]
    if T < 8 * CHUNKS or key_BHSD.shape[2] != T:
        return plain(query_BHTD, key_BHSD, value_BHSD, first, keys_B2)
    index_1HTS = positions((H, T, T), query_BHTD.device)
    heads_BHTD = []
    for chunk in range(CHUNKS):
        start, stop = T * chunk // CHUNKS, T * (chunk + 1) // CHUNKS
        weights_BHTS = attention_weights(query_BHTD[:, :, start:stop], key_BHSD[:, :, :stop], start)
        weights_BHTS = dropout(weights_BHTS, fold_in(keys_B2, 0), index_1HTS[:, :, start:stop, :stop])
        heads_BHTD.append(weights_BHTS @ value_BHSD[:, :, :stop])
    return torch.cat(heads_BHTD, dim=2)


def attend_fused(
    plain: Callable[..., Tensor],
    dropout: Dropout,
    query_BHTD: Tensor,
    key_BHSD: Tensor,
    value_BHSD: Tensor,
    first: int = 0,
    keys_B2: Tensor | None = None,
) -> Tensor:
    """What `plain` gives, by torch's fused kernel where it can: whole windows or one query, no dropout."""
    T, S = query_BHTD.shape[2], key_BHSD.shape[2]
    if (1 < T != S) or (keys_B2 is not None and dropout.rate > 0):
        return plain(query_BHTD, key_BHSD, value_BHSD, first, keys_B2)
    return _fused(query_BHTD, key_BHSD, value_BHSD)


def _fused(query_BHTD: Tensor, key_BHSD: Tensor, value_BHSD: Tensor) -> Tensor:
    """Whole windows under the causal mask; or the newest query alone, which sees every key."""
    # On MPS the kernel is wrong on anything that is not contiguous (pytorch#163597).
    query_BHTD, key_BHSD, value_BHSD = (x.contiguous() for x in (query_BHTD, key_BHSD, value_BHSD))
    is_causal = query_BHTD.shape[2] > 1
    return F.scaled_dot_product_attention(query_BHTD, key_BHSD, value_BHSD, is_causal=is_causal)


@torch.no_grad()
def fused_attention_is_right(config: ModelConfig, device: str, dtype: torch.dtype) -> bool:
    """Whether the fused kernel equals the plain definition here, and lets no position see a later one.

    On MPS in half precision it once did (pytorch#195910). A line of notice says where it is not used.
    """
    T, D = config.block_size, config.n_embd // config.n_head
    query, key, value = (
        torch.from_numpy(normals(0, f"self-test/{name}", 0, T * D)).reshape(1, 1, T, D).to(device, dtype)
        for name in ("query", "key", "value")
    )
    before = _fused(query, key, value)
    plain = attention_weights(query, key) @ value
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    tolerance = 1e-5 if exact else 5e-2
    right = bool((before - plain).abs().max() <= tolerance)
    right &= bool((_fused(query[:, :, -1:], key, value) - plain[:, :, -1:]).abs().max() <= tolerance)
    for t in (T - 1, T // 2, 1):
        # From the end on, so that what was changed before lies behind t.
        key[:, :, t:] += 1
        value[:, :, t:] -= 1
        right &= torch.equal(_fused(query, key, value)[:, :, :t], before[:, :, :t])
    if not right:
        print(
            f"torch's fused attention is wrong on {device} in {dtype}: taking the plain one", file=sys.stderr
        )
    return right


def onednn_is_faster() -> bool:
    """Whether this CPU is of the kind where `linear_by_onednn` gains."""
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def linear_by_onednn(layer: nn.Linear, x: Tensor) -> Tensor:
    """What `layer` gives, its products by oneDNN: `[..., out]` of `x` `[..., in]`.

    torch's own are MKL's, which took twice as long on an AMD CPU with AVX-512.
    """
    if x.numel() < 64 * layer.in_features or x.dtype != torch.float32:
        return F.linear(x, layer.weight, layer.bias)
    y = torch.ops.nanogpt.product(x, layer.weight)
    return y if layer.bias is None else y + layer.bias


# torch's own way to oneDNN has no gradients. An operation of ours has, and torch.compile takes it as it is.
torch.library.define("nanogpt::product", "(Tensor x, Tensor weight) -> Tensor")


@torch.library.impl("nanogpt::product", "cpu")
def _product(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T`: `[..., out]` of `[..., in]` and `[out, in]`."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


@torch.library.register_fake("nanogpt::product")
def _shape_of_product(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients_of_product(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    x, weight = ctx.saved_tensors
    of_weight = torch.ops.nanogpt.product(gradient.flatten(0, -2).t(), x.flatten(0, -2).t())
    return torch.ops.nanogpt.product(gradient, weight.t()), of_weight


torch.library.register_autograd("nanogpt::product", _gradients_of_product, setup_context=_remember)
