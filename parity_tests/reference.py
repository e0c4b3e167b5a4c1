"""The judge: the whole model, its dropout masks, AdamW and Muon in numpy, float64 where numbers are real.

It is written from the definitions, and shares with the twins and the core no more than the names of weights.
"""

from collections.abc import Callable

import numpy as np

from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.weights import Weights

MUON_RATE = 5.0  # as a multiple of AdamW's


def logits(
    weights: Weights,
    config: ModelConfig,
    tokens_BT: np.ndarray,
    keys_B2: np.ndarray | None = None,
    hidden: list[np.ndarray] | None = None,
    replace_heads: Callable[[int, np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Logits `[B, T, V]` in float64; with keys, dropout acts. The inputs of activations go to `hidden`.

    `replace_heads` may return other outputs for the heads of a layer, `[B, T, H, D]`.
    """
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    B, T = tokens_BT.shape
    C, H = config.n_embd, config.n_head
    x = w["token_embedding.embedding"][tokens_BT] + w["position_embedding.embedding"][:T]
    for layer in range(config.n_layer):
        name = f"blocks.{layer}"
        normed = layer_norm(w, f"{name}.attention_norm", x)
        query, key, value = (
            part.reshape(B, T, H, C // H).transpose(0, 2, 1, 3)
            for part in np.split(linear(w, f"{name}.attention.query_key_value", normed), 3, axis=-1)
        )
        scores = np.einsum("bhtd,bhsd->bhts", query, key) / np.sqrt(C // H)
        future = np.arange(T)[None, :] > np.arange(T)[:, None]
        attention = softmax(np.where(future, -np.inf, scores))
        attention = dropout(config.attention_dropout, attention, keys_B2, layer, 0)
        heads = np.einsum("bhts,bhsd->bthd", attention, value)
        if replace_heads is not None:
            heads = replace_heads(layer, heads)
        mixed = linear(w, f"{name}.attention.output", heads.reshape(B, T, C))
        x = x + dropout(config.dropout, mixed, keys_B2, layer, 1)
        expanded = linear(w, f"{name}.feed_forward.expand", layer_norm(w, f"{name}.feed_forward_norm", x))
        if hidden is not None:
            hidden.append(expanded)
        contracted = linear(w, f"{name}.feed_forward.contract", activation(config, expanded))
        x = x + dropout(config.dropout, contracted, keys_B2, layer, 2)
    x = layer_norm(w, "final_norm", x)
    return x @ (w["token_embedding.embedding"].T if config.tie_weights else w["head.kernel"])


def loss(
    weights: Weights, config: ModelConfig, tokens_BT1: np.ndarray, keys_B2: np.ndarray | None = None
) -> float:
    """Mean cross-entropy in nats of each token after the first."""
    return float(losses(logits(weights, config, tokens_BT1[:, :-1], keys_B2), tokens_BT1[:, 1:]).mean())


def losses(logits_BTV: np.ndarray, targets_BT: np.ndarray) -> np.ndarray:
    """Cross-entropy of each target in nats: `[B, T]`."""
    return -np.log(np.take_along_axis(softmax(logits_BTV), targets_BT[..., None], axis=-1))[..., 0]


def optimizer_step(
    weights: Weights,
    first: Weights,
    second: Weights,
    gradients: Weights,
    step: int,
    rate: float,
    config: TrainingConfig,
) -> tuple[Weights, Weights, Weights]:
    """Weights and moments after update number `step` (from 1): Loshchilov and Hutter 2019, algorithm 2.

    Or, for the matrices of blocks, Muon: Jordan et al. 2024.
    """
    g = {name: array.astype(np.float64) for name, array in gradients.items()}
    norm = np.sqrt(sum((array**2).sum() for array in g.values()))
    shrink = min(1.0, config.grad_clip / norm) if config.grad_clip else 1.0
    new_weights, new_first, new_second = {}, {}, {}
    for name, weight in weights.items():
        if config.optimizer == "muon" and name.startswith("blocks.") and weight.ndim == 2:
            m = 0.95 * first[name] + 0.05 * shrink * g[name]
            ahead = 0.95 * m + 0.05 * shrink * g[name]
            matrices = np.split(ahead, 3, axis=1) if "query_key_value" in name else [ahead]
            direction = np.concatenate([orthogonalize(matrix) for matrix in matrices], axis=1)
            wide = max(1.0, matrices[0].shape[1] / matrices[0].shape[0])
            move = np.sqrt(wide) * direction + config.weight_decay * weight.astype(np.float64)
            new_weights[name], new_first[name] = weight - MUON_RATE * rate * move, m
            continue
        m = config.beta1 * first[name] + (1 - config.beta1) * shrink * g[name]
        v = config.beta2 * second[name] + (1 - config.beta2) * (shrink * g[name]) ** 2
        direction = m / (1 - config.beta1**step) / (np.sqrt(v / (1 - config.beta2**step)) + 1e-8)
        decay = config.weight_decay if weight.ndim >= 2 else 0.0
        new_weights[name] = weight - rate * (direction + decay * weight.astype(np.float64))
        new_first[name], new_second[name] = m, v
    return new_weights, new_first, new_second


def orthogonalize(matrix: np.ndarray) -> np.ndarray:
    """The matrix with other singular values: what five of Newton and Schulz's iterations make of them."""
    left, singular, right = np.linalg.svd(matrix / np.linalg.norm(matrix), full_matrices=False)
    for _ in range(5):
        singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
    return left * singular @ right


def dropout(rate: float, x: np.ndarray, keys_B2: np.ndarray | None, layer: int, site: int) -> np.ndarray:
    if keys_B2 is None:
        return x
    keep = np.stack([kept(key, layer, site, x[0].size, rate) for key in keys_B2])
    return np.where(keep.reshape(x.shape), x / (1 - rate), 0)


def kept(key: np.ndarray, layer: int, site: int, count: int, rate: float) -> np.ndarray:
    """The elements of a row that dropout keeps: bool `[count]`, from the row's key `[2]`.

    Both halves of the key are folded with the layer, then with the site; each element's index is hashed with
    the first half, then with the second, and kept if the hash as a signed number reaches rate * 2^32 - 2^31.
    """
    first, second = (int(half) for half in key)
    for number in (layer, site):
        first, second = (
            int(lowbias32(np.array([half * 0x9E3779B1 + number + 1]))[0]) for half in (first, second)
        )
    bits = lowbias32(lowbias32(np.arange(count) ^ first) + second)
    signed = np.where(bits < 2**31, bits, bits - 2**32)
    return signed >= round(rate * 2**32) - 2**31


def lowbias32(bits: np.ndarray) -> np.ndarray:
    """Wellons's (2018) hash of the lower 32 bits of int64 numbers, in int64."""
    bits = bits & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = bits ^ (bits >> shift)
        # Two halves of 16 bits, for a product of two 32-bit numbers does not fit.
        bits = (bits * (factor & 0xFFFF) + ((bits * (factor >> 16) & 0xFFFF) << 16)) & 0xFFFFFFFF
    return bits ^ (bits >> 16)


def linear(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.kernel"] + w.get(f"{name}.bias", 0.0)


def layer_norm(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return normed * w[f"{name}.scale"] + w.get(f"{name}.bias", 0.0)


def activation(config: ModelConfig, x: np.ndarray) -> np.ndarray:
    if config.activation == "relu":
        return np.maximum(x, 0)
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)
