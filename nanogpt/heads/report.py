"""The report on all heads: numbers, roles, sentences and examples."""

from dataclasses import dataclass

from nanogpt.heads.scores import Estimate, Score

# Share of a head's attention above its baselines. Below a fifth, several detectors often come out alike.
EXCESS_THRESHOLD = 0.2
# Nats a token: about the smallest increase that 64 windows can tell from zero.
LOSS_INCREASE_THRESHOLD = 0.002


@dataclass(frozen=True)
class Example:
    """The strongest example of a head's main behaviour: one query, and the text around it."""

    text: list[str]
    """Texts of the tokens in a part of a window."""
    query: int
    """Index of the query in `text`."""
    weights: list[float]
    """Attention weights of the query on each of text[0..query]; their sum is at most 1."""


@dataclass(frozen=True)
class Head:
    """Measurements of one head."""

    layer: int
    head: int
    scores: dict[str, Score]
    """Score by detector, for detectors with targets in at least MIN_WINDOWS windows (measure.py)."""
    entropy: Estimate
    """Entropy of the attention weights, in bits."""
    distance: Estimate
    """Mean distance from query to key, in tokens."""
    loss_increase: Estimate
    """Increase of the loss when the head's output is replaced by its mean, in nats a token."""
    repeats: Estimate
    """Share of attention on induction targets in the second half of random tokens written twice."""
    role: str | None
    """Name of the detector that describes the head, or None."""
    sentence: str
    example: Example


@dataclass(frozen=True)
class HeadReport:
    """Measurements of all heads of a model."""

    heads: list[Head]
    """All heads, layer by layer."""
    detectors: dict[str, str]
    """A sentence on the targets of each detector, by its name."""
    windows: int
    loss: Estimate
    """Loss of the unchanged model, in nats a token."""
    repeats_loss: tuple[Estimate, Estimate]
    """Loss on the first and on the second half of random tokens written twice, in nats a token."""
    repeats_uniform: float
    """The value of `Head.repeats` under uniform attention over all positions so far."""
    excess_threshold: float
    loss_increase_threshold: float
