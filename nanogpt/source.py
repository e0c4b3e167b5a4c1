"""A model that was trained elsewhere, with which a new run may begin in the place of random weights."""

import os
from dataclasses import dataclass
from pathlib import Path

from nanogpt.config import ModelConfig
from nanogpt.files import read_small
from nanogpt.language_model import read_checkpoint
from nanogpt.metadata import SpecialTokens
from nanogpt.text.tokenizer import tokenizer_of
from nanogpt.weights import Weights


@dataclass(frozen=True)
class Source:
    """A model and its tokenizer, as a run keeps them."""

    config: ModelConfig
    weights: Weights
    vocabulary: str | None
    """The characters of a CharTokenizer."""
    tokenizer_json: bytes | None
    """The content of that file, where tokens are not characters; None where there is none."""
    special_tokens: SpecialTokens


def source_of_run(out_dir: Path) -> Source:
    """The newest checkpoint of a run. Raises InputError where there is none that can be read."""
    state, metadata = read_checkpoint(out_dir)
    tokenizer = tokenizer_of(out_dir, metadata)  # is it the one that the model was trained with?
    file = out_dir / "tokenizer.json"
    content = read_small(file) if metadata.vocabulary is None and os.path.lexists(file) else None
    config, vocabulary = metadata.config.model, metadata.vocabulary
    return Source(config, state.weights, vocabulary, content, tokenizer.special_tokens)
