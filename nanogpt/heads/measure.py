"""Measurement of every head: its attention, the loss without it, and the role that both support.

docs/heads.md explains the method and its limits. Shape suffixes are those of scores.py.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from nanogpt.backend import Backend
from nanogpt.config import ModelConfig
from nanogpt.errors import InputError
from nanogpt.heads.ablation import ablate_heads
from nanogpt.heads.detectors import DETECTORS, INDUCTION, meanings, targets, unit_of
from nanogpt.heads.repeats import RepeatScores, repeated_windows, score_repeats
from nanogpt.heads.report import EXCESS_THRESHOLD, LOSS_INCREASE_THRESHOLD, Example, Head, HeadReport
from nanogpt.heads.scores import AttentionStatistics, Estimate, Score, attention, resampled, spread_windows
from nanogpt.heads.sentence import describe
from nanogpt.weights import Weights

MIN_WINDOWS = 8  # fewer windows say too little about how windows differ
EXAMPLE_MARGIN = 30  # tokens shown before the first important key, and after the query


def measure_heads(
    backend: Backend,
    config: ModelConfig,
    weights: Weights,
    tokens_N: np.ndarray,
    texts: list[str],
    *,
    windows: int = 64,
) -> HeadReport:
    """Measure every head on `windows` windows (at least MIN_WINDOWS), evenly spread over a text `tokens_N`.

    `backend` is a model of `config` with these `weights`; `texts` holds the text of each token number.
    If the text has too few windows of block_size tokens, the windows are shorter.
    It takes about as long as n_layer * n_head + 10 evaluations of the windows.
    Raises InputError for a model without heads and for a text that is too short.
    """
    if config.n_layer == 0:
        raise InputError("a model with n_layer 0 has no heads")
    length = min(config.block_size, (len(tokens_N) - 1) // MIN_WINDOWS)
    if length < 4:
        raise InputError(
            f"to measure heads, block_size must be at least 4 and the text {4 * MIN_WINDOWS + 1} tokens long"
        )
    tokens_WT1 = spread_windows(tokens_N, length, max(windows, MIN_WINDOWS))
    tokens_WT = tokens_WT1[:, :-1]
    losses_W, increases_WLH = ablate_heads(backend, config, weights, tokens_WT1)
    own, shuffled = _text_statistics(backend, tokens_WT, texts)
    repeats = score_repeats(backend, repeated_windows(config.vocab_size, *tokens_WT.shape), texts)
    measurements = _Measurements(backend, texts, tokens_WT, own, shuffled, repeats, increases_WLH)
    return HeadReport(
        heads=[_head(measurements, *place) for place in np.ndindex(config.n_layer, config.n_head)],
        detectors={name: f"Attention on {m}." for name, m in meanings(unit_of(texts)).items()},
        windows=len(tokens_WT1),
        loss=Estimate.of(resampled(losses_W)),
        repeats_loss=repeats.loss,
        repeats_uniform=repeats.uniform_share(),
        excess_threshold=EXCESS_THRESHOLD,
        loss_increase_threshold=LOSS_INCREASE_THRESHOLD,
    )


@dataclass(frozen=True)
class _Measurements:
    """Measurements of all heads in all windows."""

    backend: Backend
    texts: list[str]
    tokens_WT: np.ndarray
    own: AttentionStatistics
    """Attention on the targets in each window's own text."""
    shuffled: AttentionStatistics
    """The same attention on the targets in another window's text."""
    repeats: RepeatScores
    increases_WLH: np.ndarray
    """Increase of the loss without each head, in nats a token."""


def _text_statistics(
    backend: Backend, tokens_WT: np.ndarray, texts: list[str]
) -> tuple[AttentionStatistics, AttentionStatistics]:
    """Each window's attention on targets in its own text, and in the text half of the windows away."""
    own, shuffled = [], []
    far_WT = np.roll(tokens_WT, len(tokens_WT) // 2, axis=0)
    for weights_LHTS, tokens_T, far_T in zip(attention(backend, tokens_WT), tokens_WT, far_WT, strict=True):
        own.append(AttentionStatistics.of(weights_LHTS, targets([texts[token] for token in tokens_T])))
        shuffled.append(AttentionStatistics.of(weights_LHTS, targets([texts[token] for token in far_T])))
    return AttentionStatistics.stack(own), AttentionStatistics.stack(shuffled)


def _head(measurements: _Measurements, layer: int, head: int) -> Head:
    """The report on one head, with its role, its sentence and its example."""
    own, repeats = measurements.own, measurements.repeats
    unit = unit_of(measurements.texts)
    scores = _scores(measurements, layer, head)
    induction_share = repeats.induction_share(layer, head)
    clear = _clear_detectors(scores, induction_share, repeats.uniform_share())
    loss_increase = Estimate.of(resampled(measurements.increases_WLH[:, layer, head]))
    is_needed = loss_increase.low > LOSS_INCREASE_THRESHOLD
    report = Head(
        layer=layer,
        head=head,
        scores=scores,
        entropy=Estimate.of(resampled(own.entropy[:, layer, head])),
        distance=Estimate.of(resampled(own.distance[:, layer, head])),
        loss_increase=loss_increase,
        repeats=induction_share,
        role=clear[0] if clear and is_needed else None,
        sentence="",
        example=_example(measurements, layer, head, (clear or _by_excess(scores))[0]),
    )
    return replace(report, sentence=describe(report, clear, meanings(unit), unit, repeats.uniform_share()))


def _scores(measurements: _Measurements, layer: int, head: int) -> dict[str, Score]:
    """Scores of a head by detector, for detectors with targets in at least MIN_WINDOWS windows."""
    query_count_WJ = measurements.own.query_count
    return {
        name: _score(measurements, layer, head, number)
        for number, name in enumerate(meanings(unit_of(measurements.texts)))
        if np.count_nonzero(query_count_WJ[:, number]) >= MIN_WINDOWS
    }


def _score(measurements: _Measurements, layer: int, head: int, number: int) -> Score:
    own, shuffled = measurements.own, measurements.shuffled
    share_R, shuffled_R = (
        resampled(statistics.target_attention[:, layer, head, number], statistics.query_count[:, number])
        for statistics in (own, shuffled)
    )
    uniform_R = resampled(own.uniform_attention[:, number], own.query_count[:, number])
    use_shuffled = DETECTORS[number].depends_on_text and shuffled_R[0] > uniform_R[0]
    excess = Estimate.of(share_R - (shuffled_R if use_shuffled else uniform_R))
    return Score(Estimate.of(share_R), float(uniform_R[0]), float(shuffled_R[0]), excess)


def _by_excess(scores: dict[str, Score]) -> list[str]:
    """Names of the detectors, the largest excess first."""
    return sorted(scores, key=lambda name: -scores[name].excess.mean)


def _clear_detectors(scores: dict[str, Score], on_repeats: Estimate, uniform: float) -> list[str]:
    """Names of the detectors whose excess is clearly above the threshold, the largest first.

    Induction must be clear on random tokens written twice as well, where `uniform` is its baseline.
    """
    clear = [name for name in _by_excess(scores) if scores[name].excess.low > EXCESS_THRESHOLD]
    if INDUCTION in clear and on_repeats.low - uniform <= EXCESS_THRESHOLD:
        clear.remove(INDUCTION)
    return clear


def _example(measurements: _Measurements, layer: int, head: int, detector: str) -> Example:
    """The query whose attention on the detector's targets exceeds uniform attention most, in its text."""
    own, texts = measurements.own, measurements.texts
    number = list(meanings(unit_of(texts))).index(detector)
    window = own.peak_excess[:, layer, head, number].argmax()
    query = own.peak_query[window, layer, head, number]
    tokens_T = measurements.tokens_WT[window]
    weights_S = measurements.backend.attention(tokens_T[None])[layer, 0, head, query, : query + 1]
    first = max(0, np.argsort(weights_S)[-3:].min() - EXAMPLE_MARGIN)
    text = [texts[token] for token in tokens_T[first : query + 1 + EXAMPLE_MARGIN]]
    # Rounding down keeps the sum at most 1.
    weights = [math.floor(weight * 1e4) / 1e4 for weight in weights_S[first:].tolist()]
    return Example(text, int(query - first), weights)
