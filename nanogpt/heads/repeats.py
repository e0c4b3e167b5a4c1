"""Random tokens written twice: a text in which induction alone can foresee the second half."""

from dataclasses import dataclass

import numpy as np

from nanogpt.backend import Backend
from nanogpt.heads.detectors import DETECTORS, INDUCTION, targets
from nanogpt.heads.scores import AttentionStatistics, Estimate, attention, resampled
from nanogpt.randomness import random_bits

INDUCTION_NUMBER = [detector.name for detector in DETECTORS].index(INDUCTION)


@dataclass(frozen=True)
class RepeatScores:
    """Induction and loss on windows of random tokens written twice."""

    statistics: AttentionStatistics
    """J is 1: induction targets of the queries in the second half."""
    loss: tuple[Estimate, Estimate]
    """Loss on the first and on the second half, in nats a token."""

    def uniform_share(self) -> float:
        """Share of uniform attention on induction targets."""
        return float(resampled(self.statistics.uniform_attention, self.statistics.query_count)[0, 0])

    def induction_share(self, layer: int, head: int) -> Estimate:
        """Share of a head's attention on induction targets."""
        attention_W = self.statistics.target_attention[:, layer, head, 0]
        return Estimate.of(resampled(attention_W, self.statistics.query_count[:, 0]))


def score_repeats(backend: Backend, tokens_WT: np.ndarray, texts: list[str]) -> RepeatScores:
    """Measure induction and loss on `repeated_windows`; `texts` holds the text of each token number."""
    windows, half = [], tokens_WT.shape[1] // 2
    for weights_LHTS, tokens_T in zip(attention(backend, tokens_WT), tokens_WT, strict=True):
        targets_1TS = targets([texts[token] for token in tokens_T])[[INDUCTION_NUMBER]]
        targets_1TS[:, :half] = False
        windows.append(AttentionStatistics.of(weights_LHTS, targets_1TS))
    losses_WT = backend.losses(tokens_WT)
    # The window's first token is not predicted; the second half's first is left out, as nothing foretells it.
    first, second = losses_WT[:, : half - 1].mean(axis=1), losses_WT[:, half:].mean(axis=1)
    loss = (Estimate.of(resampled(first)), Estimate.of(resampled(second)))
    return RepeatScores(AttentionStatistics.stack(windows), loss)


def repeated_windows(vocab_size: int, count: int, length: int) -> np.ndarray:
    """Windows of random tokens written twice: int32 `[W, length]`, one less if `length` is odd."""
    tokens_N = random_bits(0, "heads/repeats", 0, count * (length // 2)) % np.uint64(vocab_size)
    return np.tile(tokens_N.astype(np.int32).reshape(count, -1), 2)
