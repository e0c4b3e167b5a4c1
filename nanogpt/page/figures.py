"""Attention and predictions of a model on one text, as the numbers that the page shows."""

import base64
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt.language_model import LanguageModel

LIKELIEST = 5  # next tokens shown at each position


@dataclass(frozen=True)
class Reading:
    """A model and the tokens of a text that it reads."""

    folder: Path
    """Folder of the model's run."""
    model: LanguageModel
    tokens_T: np.ndarray

    @property
    def origin(self) -> tuple[str, str, str]:
        """Folder, step and backend of the model."""
        return str(self.folder), f"step {self.model.metadata.step:,}", self.model.backend.name

    def __str__(self) -> str:
        return ", ".join(self.origin)

    @property
    def pieces(self) -> list[str]:
        """The text of each token."""
        return self.texts(self.tokens_T)

    @cached_property
    def attention(self) -> np.ndarray:
        """Attention weights of every layer and head: float32 `[L, H, T, S]`."""
        return self.model.attention(self.tokens_T[None])[:, 0]

    @cached_property
    def log_probabilities(self) -> np.ndarray:
        """Log probabilities of the next token at each position, in nats: float64 `[T, V]`."""
        logits_TV = self.model.logits(self.tokens_T[None])[0].astype(np.float64)
        logits_TV -= logits_TV.max(axis=1, keepdims=True)
        return logits_TV - np.log(np.exp(logits_TV).sum(axis=1, keepdims=True))

    @property
    def losses(self) -> list[float]:
        """Loss of every token but the first, in nats."""
        return (-self.log_probabilities[np.arange(len(self.tokens_T) - 1), self.tokens_T[1:]]).tolist()

    @property
    def likeliest(self) -> list[list[tuple[str, float]]]:
        """The likeliest next tokens at each position, and their probabilities."""
        best_Tn = np.argsort(-self.log_probabilities, axis=1, kind="stable")[:, :LIKELIEST]
        probabilities_Tn = np.exp(np.take_along_axis(self.log_probabilities, best_Tn, axis=1))
        return [
            list(zip(self.texts(best_n), probabilities_n.tolist(), strict=True))
            for best_n, probabilities_n in zip(best_Tn, probabilities_Tn, strict=True)
        ]

    def texts(self, tokens_N: np.ndarray) -> list[str]:
        """The text of each token, decoded on its own."""
        return [self.model.tokenizer.decode(tokens_N[i : i + 1]) for i in range(len(tokens_N))]

    def figures(self) -> dict[str, Any]:
        """The reading as JSON values; `error` is the largest change of a weight by packing `attention`."""
        codes = coded(self.attention)
        layers, heads = self.attention.shape[:2]
        return {
            "layers": layers,
            "heads": heads,
            "pieces": self.pieces,
            "losses": self.losses,
            "likeliest": self.likeliest,
            "attention": packed(codes),
            "error": float(np.abs(decoded(codes) - self.attention).max()),
        }


def comparison(one: Reading, other: Reading) -> dict[str, Any]:
    """Attention of `one` minus that of `other`, as JSON values.

    Both must be readings of the same text by models with the same number of layers and heads.
    """
    difference_LHTS = one.attention - other.attention
    largest_LH = np.abs(difference_LHTS).max(axis=(2, 3))
    scale = float(largest_LH.max()) or 1.0
    codes = coded_difference(difference_LHTS / scale)
    # To keep the page small, it has no weights of the other model, and subtracts the difference instead.
    rebuilt = decoded(coded(one.attention)) - decoded_difference(codes) * scale
    # Each is named by the parts of its origin that differ.
    names = [(a, b) for a, b in zip(one.origin, other.origin, strict=True) if a != b]
    return {
        "names": [", ".join(parts) for parts in zip(*names, strict=True)] or [str(one), str(other)],
        "losses": other.losses,
        "largest": largest_LH.tolist(),
        "scale": scale,
        "difference": packed(codes),
        "error": float(np.abs(decoded_difference(codes) * scale - difference_LHTS).max()),
        "other_error": float(np.abs(decoded(coded(np.maximum(rebuilt, 0))) - other.attention).max()),
    }


def coded(weights: np.ndarray) -> np.ndarray:
    """Weights from 0 to 1 as uint8, with finer steps for small weights."""
    return np.round(255 * np.sqrt(weights)).astype(np.uint8)


def decoded(codes: np.ndarray) -> np.ndarray:
    return (codes / np.float32(255)) ** 2


def coded_difference(difference: np.ndarray) -> np.ndarray:
    """Differences from -1 to 1 as uint8: 1 to 255, with 128 for no difference."""
    return (128 + np.round(127 * np.sign(difference) * np.sqrt(np.abs(difference)))).astype(np.uint8)


def decoded_difference(codes: np.ndarray) -> np.ndarray:
    root = (codes - np.float32(128)) / 127
    return root * np.abs(root)


def packed(codes_LHTS: np.ndarray) -> str:
    """The lower triangle of each head, row after row, in base64; no query attends to a later key."""
    queries, keys = np.tril_indices(codes_LHTS.shape[-1])
    return base64.b64encode(codes_LHTS[..., queries, keys].tobytes()).decode()
