"""What is measured of heads, window by window, and how sure it is.

Shape suffixes: those of model.py, and W windows, J detectors, A heads of all layers, R resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from nanogpt import data
from nanogpt.backend import Backend
from nanogpt.randomness import words

RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean over windows, and its 95 % interval: percentiles of a bootstrap over windows."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values_R: np.ndarray) -> "Estimate":
        """Of what `resampled` gives."""
        low, high = np.quantile(values_R[1:], [0.025, 0.975])
        return cls(float(values_R[0]), float(low), float(high))


def resampled(sums: np.ndarray, counts: np.ndarray | float = 1.0) -> np.ndarray:
    """The sum over windows, divided by the count over windows: `[R, ...]` of `[W, ...]`.

    Row 0 is of the windows as they are, each other row of as many drawn from them with replacement, the same
    in every call: differences between results are differences on the same windows.
    """
    draws_RW = _draws(len(sums))
    resampled_counts = np.tensordot(draws_RW, np.broadcast_to(counts, sums.shape), 1)
    # Where a resample has nothing to count, its sum is 0 too.
    return np.tensordot(draws_RW, sums, 1) / np.maximum(resampled_counts, 1)


@cache
def _draws(count: int) -> np.ndarray:
    """How often each resample draws each window."""
    picks_RW = words(0, "heads/resamples", 0, RESAMPLES * count).reshape(RESAMPLES, count) % np.uint64(count)
    drawn_RW = [np.bincount(picks_W.astype(np.int64), minlength=count) for picks_W in picks_RW]
    return np.stack([np.ones(count), *drawn_RW])


@dataclass(frozen=True)
class Score:
    """How much of its attention a head gives to what a detector counts: shares of 0 to 1."""

    share: Estimate
    uniform: float
    """Of a head that looks at all positions so far alike."""
    shuffled: float
    """Of this head, if the text of each window were that of another; `share` itself for mere positions."""
    excess: Estimate
    """`share` above the larger of the two; above `uniform` for mere positions."""


def spread_windows(tokens_N: np.ndarray, length: int, count: int) -> np.ndarray:
    """At most `count` windows that do not overlap, evenly spread over a text: int32 `[W, length + 1]`."""
    tokens_WT1, real_WT = data.windows(tokens_N, length)
    whole_WT1 = tokens_WT1[real_WT.all(axis=1)]
    count = min(count, len(whole_WT1))
    return whole_WT1[np.linspace(0, len(whole_WT1) - 1, count).round().astype(int)]


def repeated_windows(vocab_size: int, count: int, length: int) -> np.ndarray:
    """Windows of random tokens written twice: int32 `[W, length]`, one less where that is odd."""
    tokens_N = words(0, "heads/repeats", 0, count * (length // 2)) % np.uint64(vocab_size)
    return np.tile(tokens_N.astype(np.int32).reshape(count, -1), 2)


def attention(backend: Backend, tokens_WT: np.ndarray) -> Iterator[np.ndarray]:
    """Attention weights of one window after the other, `[L, H, T, S]`."""
    # Together they would fill the memory: 400 MB for 64 windows of the default model.
    return (backend.attention(tokens_T[None])[:, 0] for tokens_T in tokens_WT)


class Looks(NamedTuple):
    """What heads look at in a window, by detector; of several windows, W stands before these shapes."""

    on_targets: np.ndarray
    """Attention on what the detector counts, summed over queries: `[L, H, J]`."""
    uniform: np.ndarray
    """The same of a head that looks at all positions so far alike: `[J]`."""
    queries: np.ndarray
    """For how many queries it counts anything: `[J]`."""
    most: np.ndarray
    """The most that one query's attention on it exceeds that of such a head: `[L, H, J]`."""
    most_at: np.ndarray
    """That query: `[L, H, J]`."""
    entropy: np.ndarray
    """How widely a head looks, on average over all queries, in bits: `[L, H]`."""
    distance: np.ndarray
    """How far back, in tokens: `[L, H]`."""

    @classmethod
    def of(cls, weights_LHTS: np.ndarray, counted_JTS: np.ndarray) -> "Looks":
        """Hold attention weights against what detectors count (detectors.py `targets`)."""
        L, H, T, S = weights_LHTS.shape
        # One product for each query: many times as fast as einsum.
        weights_TAS = weights_LHTS.reshape(L * H, T, S).swapaxes(0, 1)
        shares_TAJ = weights_TAS @ counted_JTS.transpose(1, 2, 0).astype(np.float32)
        count_TJ = counted_JTS.sum(-1).T
        is_asked_TJ, uniform_TJ = count_TJ > 0, count_TJ / np.arange(1, T + 1)[:, None]
        above_TAJ = np.where(is_asked_TJ[:, None], shares_TAJ - uniform_TJ[:, None], -1)
        of_heads = (shares_TAJ.sum(0), above_TAJ.max(0), above_TAJ.argmax(0))
        on_targets, most, most_at = (array_AJ.reshape(L, H, -1) for array_AJ in of_heads)
        bits_LHTS = -weights_LHTS * np.log2(np.maximum(weights_LHTS, 1e-30))
        position_T = np.arange(T, dtype=np.float32)
        distance_LHT = position_T - weights_LHTS @ position_T
        return cls(
            on_targets,
            uniform_TJ.sum(0),
            is_asked_TJ.sum(0),
            most,
            most_at,
            bits_LHTS.sum(-1).mean(-1),
            distance_LHT.mean(-1),
        )

    @classmethod
    def stack(cls, looks: list["Looks"]) -> "Looks":
        return cls(*map(np.stack, zip(*looks, strict=True)))
