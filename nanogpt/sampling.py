"""The choice of the next token: the policy, and the random numbers that it consumes.

Both backends sample by inverse CDF: one uniform number decides each token, so one seed gives one text.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from nanogpt.errors import InputError
from nanogpt.randomness import uniforms

TOKENS_PER_BLOCK = 16  # generated in one call of the backend, and so shown together
MAX_TOKENS = 10_000_000  # of one text, whose random numbers are drawn at once


@dataclass(frozen=True)
class SamplingPolicy:
    """Settings of sampling, applied in this order: temperature, top_k, top_p, then one draw."""

    temperature: float = 0.8
    """Logits are divided by it; 0 takes the likeliest token."""
    top_k: int | None = None
    """Keep the k likeliest tokens, and those tied with the k-th."""
    top_p: float | None = None
    """Keep the fewest likeliest tokens whose probabilities reach p (Holtzman et al. 2020)."""

    def __post_init__(self) -> None:
        # Beyond these, float32 can no longer tell the scaled logits apart.
        if self.temperature != 0 and not 1e-6 <= self.temperature <= 1e6:
            raise InputError(
                f"temperature {self.temperature} is out of range: it must be 0, or from 1e-6 to 1e6"
            )
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k {self.top_k} is out of range: it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p} is out of range: it must be above 0 and at most 1")


def checked_policy(
    *, max_tokens: int, temperature: float, top_k: int | None, top_p: float | None, seed: int
) -> SamplingPolicy:
    """The policy of a text, from the options of `LanguageModel.stream`.

    Raises InputError if one is out of range.
    """
    if not 0 <= max_tokens <= MAX_TOKENS:
        raise InputError(
            f"max_tokens {max_tokens} is out of range: it must be at least 0 and at most {MAX_TOKENS:,}"
        )
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed} is out of range: it must be at least 0 and below 2**32")
    return SamplingPolicy(temperature, top_k, top_p)


def token_blocks(count: int, inside: int) -> Iterator[tuple[slice, bool]]:
    """Cut `count` tokens into blocks that lie either among the first `inside` tokens (true) or after them."""
    start = 0
    while start < count:
        is_inside = start < inside
        stop = min(start + TOKENS_PER_BLOCK, count, inside if is_inside else count)
        yield slice(start, stop), is_inside
        start = stop


def sampling_uniforms(seed: int, samples: Iterable[int], count: int) -> np.ndarray:
    """Uniform numbers that decide `count` tokens of each numbered sample: float32 `[B, N]`."""
    return np.stack([uniforms(seed, "sampling", sample, count) for sample in samples])
