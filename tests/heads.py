"""Helpers for tests of the heads: detector names, a small configuration and a text for it."""

import numpy as np

from nanogpt.config import ModelConfig
from nanogpt.heads.detectors import DETECTORS, targets
from nanogpt.randomness import random_bits

NAMES = [detector.name for detector in DETECTORS]

CONFIG = ModelConfig(vocab_size=40, block_size=32, n_layer=2, n_head=2, n_embd=16, dropout=0)
TEXTS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ:\n '")[: CONFIG.vocab_size]

LEXICON = ["the", "king", "hath", "no", "horse", "\n", "A:", "sleep", "I"]
PICKS = random_bits(3, "corpus", 0, 800) % np.uint64(len(LEXICON))
TOKENS_N = np.array([TEXTS.index(c) for c in " ".join(LEXICON[pick] for pick in PICKS)], np.int32)


def selected_keys(texts: str | list[str], name: str, query: int) -> list[int]:
    """The keys that a detector selects for one query."""
    return np.flatnonzero(targets(list(texts))[NAMES.index(name), query]).tolist()
