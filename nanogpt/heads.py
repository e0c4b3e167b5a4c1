"""What each head does: where it looks, what the model loses without it, and so what it may be called.

docs/heads.md says why it is measured so, and how far to trust it. Shape suffixes as in head_scores.py.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from nanogpt.ablation import ablation
from nanogpt.backend import Backend
from nanogpt.config import ModelConfig
from nanogpt.detectors import DETECTORS, INDUCTION, meanings, targets, unit_of
from nanogpt.errors import InputError
from nanogpt.head_scores import (
    Estimate,
    Looks,
    Score,
    attention,
    repeated_windows,
    resampled,
    spread_windows,
)
from nanogpt.weights import Weights

MIN_WINDOWS = 8  # fewer do not tell how much windows differ
# Of a head's attention, beyond chance. Where nothing gets a fifth, many things get about as much.
EXCESS_THRESHOLD = 0.2
# In nats a token: about what 64 windows can tell from nothing.
ABLATION_THRESHOLD = 0.002
EXAMPLE_MARGIN = 30  # tokens shown before the first that matters


@dataclass(frozen=True)
class Example:
    """Where in the text a head does most of what it does most."""

    text: list[str]
    """Texts of the tokens of a part of a window."""
    query: int
    """The one of them that looks."""
    weights: list[float]
    """How much it looks at each one of text[0..query]: at most 1 in sum."""


@dataclass(frozen=True)
class Head:
    """What was measured of one head."""

    layer: int
    head: int
    scores: dict[str, Score]
    """By detector, of those that counted anything in at least MIN_WINDOWS windows."""
    entropy: Estimate
    """How widely it looks, in bits."""
    distance: Estimate
    """How far back it looks on average, in tokens."""
    ablation: Estimate
    """By how much the loss rises when its output is replaced by its mean, in nats a token."""
    repeats: Estimate
    """Its share for induction in the second half of random tokens written twice."""
    role: str | None
    """The detector that it may be called by, if there is one."""
    sentence: str
    example: Example


@dataclass(frozen=True)
class HeadReport:
    """What was measured of all heads."""

    heads: list[Head]
    """Layer by layer."""
    detectors: dict[str, str]
    """What each one counts, in a sentence."""
    windows: int
    loss: Estimate
    """Of the model as it is, in nats a token."""
    repeats_loss: tuple[Estimate, Estimate]
    """On the first and on the second half of random tokens written twice."""
    repeats_uniform: float
    """`repeats` of a head that looks at all positions so far alike."""
    excess_threshold: float
    ablation_threshold: float


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

    `backend` is a model of `config` with these `weights`; `texts` is what each token says, by token, or its
    number where nobody knows. Where the text has too few windows of block_size tokens, they are shorter.
    Takes about as long as n_layer * n_head + 10 evaluations of the windows.
    Raises InputError for a model without heads and for a text that is too short.
    """
    if config.n_layer == 0:
        raise InputError("a model with n_layer 0 has no heads")
    length = min(config.block_size, (len(tokens_N) - 1) // MIN_WINDOWS)
    if length < 4:
        raise InputError(f"heads take a block_size of at least 4 and {4 * MIN_WINDOWS + 1} tokens of text")
    tokens_WT1 = spread_windows(tokens_N, length, max(windows, MIN_WINDOWS))
    measured = _Measured(backend, config, weights, tokens_WT1, texts)
    return HeadReport(
        heads=[measured.head(layer, head) for layer, head in np.ndindex(config.n_layer, config.n_head)],
        detectors={name: f"Attention on {meaning}." for name, meaning in measured.meanings.items()},
        windows=len(tokens_WT1),
        loss=Estimate.of(resampled(measured.losses_W)),
        repeats_loss=measured.repeats_loss,
        repeats_uniform=measured.repeats_uniform,
        excess_threshold=EXCESS_THRESHOLD,
        ablation_threshold=ABLATION_THRESHOLD,
    )


class _Measured:
    """All heads in all windows, to be summed up head by head."""

    def __init__(
        self,
        backend: Backend,
        config: ModelConfig,
        weights: Weights,
        tokens_WT1: np.ndarray,
        texts: list[str],
    ) -> None:
        self.backend, self.tokens_WT, self.texts = backend, tokens_WT1[:, :-1], texts
        self.unit = unit_of(texts)
        self.meanings = meanings(self.unit)
        self.losses_W, self.rises_WLH = ablation(backend, config, weights, tokens_WT1)
        self._look_at_text()
        self._look_at_repeats(repeated_windows(config.vocab_size, *self.tokens_WT.shape))

    def _look_at_text(self) -> None:
        """Each window's attention, held against its own text and against that of a window far from it."""
        own, others = [], []
        far_WT = np.roll(self.tokens_WT, len(self.tokens_WT) // 2, axis=0)
        of_windows = attention(self.backend, self.tokens_WT)
        for weights_LHTS, tokens_T, far_T in zip(of_windows, self.tokens_WT, far_WT, strict=True):
            own.append(Looks.of(weights_LHTS, self._targets(tokens_T)))
            others.append(Looks.of(weights_LHTS, self._targets(far_T)))
        self.own, self.others = Looks.stack(own), Looks.stack(others)

    def _look_at_repeats(self, tokens_WT: np.ndarray) -> None:
        """Induction and the loss where random tokens come for the second time."""
        looks, half = [], tokens_WT.shape[1] // 2
        for weights_LHTS, tokens_T in zip(attention(self.backend, tokens_WT), tokens_WT, strict=True):
            counted_1TS = self._targets(tokens_T)[[list(self.meanings).index(INDUCTION)]]
            counted_1TS[:, :half] = False
            looks.append(Looks.of(weights_LHTS, counted_1TS))
        self.repeats = Looks.stack(looks)
        self.repeats_uniform = float(resampled(self.repeats.uniform, self.repeats.queries)[0, 0])
        losses_WT = self.backend.losses(tokens_WT)
        # Neither half's first token can be foreseen, nor is the very first a prediction.
        first, second = losses_WT[:, : half - 1].mean(axis=1), losses_WT[:, half:].mean(axis=1)
        self.repeats_loss = (Estimate.of(resampled(first)), Estimate.of(resampled(second)))

    def _targets(self, tokens_T: np.ndarray) -> np.ndarray:
        return targets([self.texts[token] for token in tokens_T])

    def head(self, layer: int, head: int) -> Head:
        """All about one head."""
        entropy, distance, ablation = (
            Estimate.of(resampled(values_WLH[:, layer, head]))
            for values_WLH in (self.own.entropy, self.own.distance, self.rises_WLH)
        )
        on_repeats_W = self.repeats.on_targets[:, layer, head, 0]
        repeats = Estimate.of(resampled(on_repeats_W, self.repeats.queries[:, 0]))
        scores = {
            name: self._score(layer, head, number)
            for number, name in enumerate(self.meanings)
            if np.count_nonzero(self.own.queries[:, number]) >= MIN_WINDOWS
        }
        by_excess = sorted(scores, key=lambda name: -scores[name].excess.mean)
        clear = [name for name in by_excess if scores[name].excess.low > EXCESS_THRESHOLD]
        if INDUCTION in clear and repeats.low - self.repeats_uniform <= EXCESS_THRESHOLD:
            clear.remove(INDUCTION)
        role = clear[0] if clear and ablation.low > ABLATION_THRESHOLD else None
        example = self._example(layer, head, (clear or by_excess)[0])
        measured = Head(layer, head, scores, entropy, distance, ablation, repeats, role, "", example)
        return replace(measured, sentence=self._sentence(measured, clear))

    def _score(self, layer: int, head: int, number: int) -> Score:
        own_R, others_R = (
            resampled(looks.on_targets[:, layer, head, number], looks.queries[:, number])
            for looks in (self.own, self.others)
        )
        uniform_R = resampled(self.own.uniform[:, number], self.own.queries[:, number])
        of_content = DETECTORS[number].of_content
        chance_R = others_R if of_content and others_R[0] > uniform_R[0] else uniform_R
        excess = Estimate.of(own_R - chance_R)
        return Score(Estimate.of(own_R), float(uniform_R[0]), float(others_R[0]), excess)

    def _example(self, layer: int, head: int, detector: str) -> Example:
        """The query that looks at what the detector counts the most, and some text around it."""
        number = list(self.meanings).index(detector)
        window = self.own.most[:, layer, head, number].argmax()
        query = self.own.most_at[window, layer, head, number]
        tokens_T = self.tokens_WT[window]
        weights_S = self.backend.attention(tokens_T[None])[layer, 0, head, query, : query + 1]
        first = max(0, np.argsort(weights_S)[-3:].min() - EXAMPLE_MARGIN)
        text = [self.texts[token] for token in tokens_T[first : query + 1 + EXAMPLE_MARGIN]]
        # Rounded down, so that the sum stays below 1.
        weights = [math.floor(weight * 1e4) / 1e4 for weight in weights_S[first:].tolist()]
        return Example(text, int(query - first), weights)

    def _sentence(self, head: Head, clear: list[str]) -> str:
        """What was found, in figures; `clear` are the detectors that stand out."""
        best, *others = clear or [max(head.scores, key=lambda name: head.scores[name].excess.mean)]
        score = head.scores[best]
        share, chance = _percent(score.share.mean), _percent(score.share.mean - score.excess.mean)
        found = f"{share} of its attention goes to {self.meanings[best]}, where chance would have {chance}."
        if others:
            also = (f"{self.meanings[name]} ({_percent(head.scores[name].share.mean)})" for name in others)
            found += f" Much goes to {' and '.join(also)} too."
        if score.excess.low <= EXCESS_THRESHOLD:
            found = (
                f"No role fits it; the nearest: {found} It spreads as over {2**head.entropy.mean:.0f} "
                f"{self.unit}s alike, {head.distance.mean:.0f} back on average."
            )
        if INDUCTION in head.scores and head.scores[INDUCTION].excess.low > EXCESS_THRESHOLD:
            verdict = "." if INDUCTION in clear else ": it is no induction."
            found += (
                f" In random {self.unit}s written twice induction gets {_percent(head.repeats.mean)}, where "
                f"chance would have {_percent(self.repeats_uniform)}{verdict}"
            )
        loss = head.ablation
        rise = f"the loss rises by {loss.mean:.4f} nats a {self.unit} ({loss.low:.4f} to {loss.high:.4f})"
        if loss.low > ABLATION_THRESHOLD:
            return f"{found} Without the head {rise}."
        if loss.high > ABLATION_THRESHOLD:
            return f"{found} Whether the model needs it is not sure: without it {rise}."
        return f"{found} The model hardly needs it: without it {rise}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
