"""What each head does: how much of its attention goes where, what the model loses without it, and what it may
therefore be called."""

from dataclasses import dataclass

import numpy as np

from nanogpt.backend import Backend
from nanogpt.config import ModelConfig
from nanogpt.weights import Weights


@dataclass(frozen=True)
class Estimate:
    """A mean over windows and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """How much of its attention a head gives to what a detector counts, 0 to 1."""

    share: Estimate
    uniform: float
    """The share of a head that looks at all positions so far alike."""
    shuffled: float
    """The head's own share on the same windows with their tokens shuffled."""
    excess: Estimate
    """`share` above the larger of the two, or above `uniform` where the detector knows positions alone."""


@dataclass(frozen=True)
class Example:
    """Where in the corpus a head does most of what it does."""

    text: list[str]
    """Texts of the tokens of a part of a window."""
    query: int
    """Which of them looks."""
    weights: list[float]
    """How much it looks at each one of text[0..query]: at most 1 in sum."""


@dataclass(frozen=True)
class Head:
    """What was measured of one head."""

    layer: int
    head: int
    scores: dict[str, Score]
    """By detector."""
    entropy: Estimate
    """Bits."""
    distance: Estimate
    """How many tokens back it looks, on average."""
    ablation: Estimate
    """Nats a token by which the loss rises when the head's output is replaced by its mean."""
    repeats: Estimate
    """Its share of induction in the second half of random tokens written twice."""
    role: str | None
    """The detector that may name it, if one may."""
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
    """Of the intact model, in nats a token."""
    repeats_loss: tuple[Estimate, Estimate]
    """On the first and the second half of random tokens written twice."""
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
    """Measure every head on `windows` windows, evenly spread over a text `tokens_N`.

    `backend` is a model of `config` with these `weights`; `texts` is what each token says, by token
    (tokenizer.py `token_texts`). Takes about as long as n_layer * n_head + 10 evaluations of those windows.
    Raises InputError for a model without heads and for a text shorter than one window.
    """
    raise NotImplementedError
