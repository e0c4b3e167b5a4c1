"""Statistics of attention, and the confidence intervals of their means."""

import math

import numpy as np
import pytest

from nanogpt.heads.detectors import targets
from nanogpt.heads.scores import AttentionStatistics, Estimate, resampled, spread_windows
from nanogpt.randomness import normals, uniforms
from tests.heads import NAMES

TEXT = "is\n\nROMEO:\nSee his\n\nA man said:\nno: he"


def random_attention(*shape: int) -> np.ndarray:
    weights = np.tril(uniforms(1, "attention", 0, math.prod(shape)).reshape(shape) + 0.01)
    return weights / weights.sum(-1, keepdims=True)


def test_statistics_equal_those_of_a_slow_loop() -> None:
    T = len(TEXT)
    weights_LHTS, targets_JTS = random_attention(2, 3, T, T), targets(list(TEXT))
    statistics = AttentionStatistics.of(weights_LHTS, targets_JTS)
    for layer, head, number in np.ndindex(2, 3, len(NAMES)):
        shares, evenly = {}, {}
        for query in range(T):
            keys = [key for key in range(T) if targets_JTS[number, query, key]]
            if keys:
                shares[query] = sum(float(weights_LHTS[layer, head, query, key]) for key in keys)
                evenly[query] = len(keys) / (query + 1)
        place = (layer, head, number)
        assert statistics.target_attention[place] == pytest.approx(sum(shares.values()), rel=1e-5)
        assert statistics.uniform_attention[number] == pytest.approx(sum(evenly.values()))
        assert statistics.query_count[number] == len(shares)
        if shares:
            peak_query = max(shares, key=lambda query: shares[query] - evenly[query])
            assert statistics.peak_query[place] == peak_query
            assert statistics.peak_excess[place] == pytest.approx(
                shares[peak_query] - evenly[peak_query], abs=1e-5
            )
    for layer, head in np.ndindex(2, 3):
        rows = [weights_LHTS[layer, head, query, : query + 1].tolist() for query in range(T)]
        bits = [-sum(weight * math.log2(weight) for weight in row) for row in rows]
        back = [sum(weight * (len(row) - 1 - key) for key, weight in enumerate(row)) for row in rows]
        assert statistics.entropy[layer, head] == pytest.approx(sum(bits) / T, rel=1e-5)
        assert statistics.distance[layer, head] == pytest.approx(sum(back) / T, rel=1e-5)


def test_an_interval_is_as_wide_as_windows_differ() -> None:
    values_W = 3 + normals(2, "windows", 0, 64).astype(np.float64)
    estimate = Estimate.of(resampled(values_W))
    assert estimate.mean == pytest.approx(values_W.mean())
    half_width = float(1.96 * values_W.std() / 8)
    assert estimate.low == pytest.approx(values_W.mean() - half_width, abs=0.1 * half_width)
    assert estimate.high == pytest.approx(values_W.mean() + half_width, abs=0.1 * half_width)
    # Windows differ, but the second measure exceeds the first by the same amount in each of them.
    paired = Estimate.of(resampled(values_W + 0.5) - resampled(values_W))
    assert (paired.low, paired.high) == pytest.approx((0.5, 0.5))


def test_a_mean_over_queries_weighs_windows_by_their_queries() -> None:
    sums_W, queries_W = np.array([1.0, 0.0, 8.0]), np.array([2, 0, 8])
    assert resampled(sums_W, queries_W)[0] == pytest.approx(0.9)
    assert np.isfinite(resampled(sums_W, queries_W)).all()


def test_windows_are_spread_over_the_text_and_do_not_overlap() -> None:
    tokens_WT1 = spread_windows(np.arange(1003), 10, 7)
    assert tokens_WT1.shape == (7, 11)
    assert (np.diff(tokens_WT1) == 1).all()
    starts = tokens_WT1[:, 0]
    assert starts[0] == 0
    assert starts[-1] == 990
    assert np.ptp(np.diff(starts)) <= 10
    assert len(spread_windows(np.arange(1003), 10, 1000)) == 100
