"""Statistics of attention, window by window, and their means over windows with confidence intervals.

Shape suffixes: those of model.py, and W windows, J detectors, A heads of all layers, R resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from nanogpt.backend import Backend
from nanogpt.randomness import random_bits
from nanogpt.text import corpus

RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean over windows, and its 95 % interval: percentiles of a bootstrap over windows."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values_R: np.ndarray) -> "Estimate":
        """Estimate from one value per resample, as `resampled` returns them."""
        low, high = np.quantile(values_R[1:], [0.025, 0.975])
        return cls(float(values_R[0]), float(low), float(high))


def resampled(sums: np.ndarray, counts: np.ndarray | float = 1.0) -> np.ndarray:
    """The sum over windows, divided by the count over windows: `[R, ...]` from `[W, ...]`.

    Row 0 takes the windows as they are. Every other row draws as many windows with replacement. The draws
    are the same in every call, so a difference of two results compares the same windows.
    """
    draws_RW = _draws(len(sums))
    resampled_counts = np.tensordot(draws_RW, np.broadcast_to(counts, sums.shape), 1)
    # Where a resample has a count of 0, its sum is 0 too.
    return np.tensordot(draws_RW, sums, 1) / np.maximum(resampled_counts, 1)


@cache
def _draws(count: int) -> np.ndarray:
    """The number of times that each resample draws each window: `[R, W]`."""
    picks_N = random_bits(0, "heads/resamples", 0, RESAMPLES * count) % np.uint64(count)
    picks_RW = picks_N.astype(np.int64).reshape(RESAMPLES, count)
    drawn_RW = [np.bincount(picks_W, minlength=count) for picks_W in picks_RW]
    return np.stack([np.ones(count), *drawn_RW])


@dataclass(frozen=True)
class Score:
    """The share of its attention that a head gives to a detector's targets: from 0 to 1."""

    share: Estimate
    uniform: float
    """The share under uniform attention over all positions so far."""
    shuffled: float
    """The share on the targets of another window's text; equal to `share` for detectors of positions."""
    excess: Estimate
    """`share` minus the larger of the two baselines; minus `uniform` for detectors of positions."""


def spread_windows(tokens_N: np.ndarray, length: int, count: int) -> np.ndarray:
    """At most `count` windows that do not overlap, evenly spread over a text: int32 `[W, length + 1]`."""
    tokens_WT1, real_WT = corpus.windows(tokens_N, length)
    whole_WT1 = tokens_WT1[real_WT.all(axis=1)]
    count = min(count, len(whole_WT1))
    return whole_WT1[np.linspace(0, len(whole_WT1) - 1, count).round().astype(int)]


def attention(backend: Backend, tokens_WT: np.ndarray) -> Iterator[np.ndarray]:
    """Attention weights of one window after the other: `[L, H, T, S]`."""
    # Together they would fill the memory: 400 MB for 64 windows of the default model.
    return (backend.attention(tokens_T[None])[:, 0] for tokens_T in tokens_WT)


class AttentionStatistics(NamedTuple):
    """Attention of all heads in one window, by detector; after `stack`, W comes before these shapes."""

    target_attention: np.ndarray
    """Attention on the detector's targets, summed over queries: `[L, H, J]`."""
    uniform_attention: np.ndarray
    """The same sum under uniform attention over all positions so far: `[J]`."""
    query_count: np.ndarray
    """Number of queries for which the detector has targets: `[J]`."""
    peak_excess: np.ndarray
    """The largest difference of target and uniform attention at one query: `[L, H, J]`."""
    peak_query: np.ndarray
    """The query of `peak_excess`: `[L, H, J]`."""
    entropy: np.ndarray
    """Mean entropy of the attention weights over all queries, in bits: `[L, H]`."""
    distance: np.ndarray
    """Mean distance from query to key, weighted by attention, in tokens: `[L, H]`."""

    @classmethod
    def of(cls, weights_LHTS: np.ndarray, targets_JTS: np.ndarray) -> "AttentionStatistics":
        """Compare attention weights with the targets of detectors (detectors.py `targets`)."""
        L, H, T, S = weights_LHTS.shape
        # One matmul for each query is many times as fast as einsum.
        weights_TAS = weights_LHTS.reshape(L * H, T, S).swapaxes(0, 1)
        shares_TAJ = weights_TAS @ targets_JTS.transpose(1, 2, 0).astype(np.float32)
        target_count_TJ = targets_JTS.sum(-1).T
        has_targets_TJ = target_count_TJ > 0
        uniform_TJ = target_count_TJ / np.arange(1, T + 1)[:, None]
        excess_TAJ = np.where(has_targets_TJ[:, None], shares_TAJ - uniform_TJ[:, None], -1)
        bits_LHTS = -weights_LHTS * np.log2(np.maximum(weights_LHTS, 1e-30))
        position_T = np.arange(T, dtype=np.float32)
        distance_LHT = position_T - weights_LHTS @ position_T
        return cls(
            target_attention=shares_TAJ.sum(0).reshape(L, H, -1),
            uniform_attention=uniform_TJ.sum(0),
            query_count=has_targets_TJ.sum(0),
            peak_excess=excess_TAJ.max(0).reshape(L, H, -1),
            peak_query=excess_TAJ.argmax(0).reshape(L, H, -1),
            entropy=bits_LHTS.sum(-1).mean(-1),
            distance=distance_LHT.mean(-1),
        )

    @classmethod
    def stack(cls, windows: list["AttentionStatistics"]) -> "AttentionStatistics":
        """Statistics of several windows, with W as the first axis of every field."""
        return cls(*map(np.stack, zip(*windows, strict=True)))
