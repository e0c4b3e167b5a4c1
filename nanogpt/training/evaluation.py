"""An evaluation: both losses, exact, and a short text."""

from collections.abc import Sequence

import numpy as np

from nanogpt.backend import Backend
from nanogpt.language_model import LanguageModel, losses_in_parts
from nanogpt.metadata import Metadata
from nanogpt.training.run import Run

SAMPLE_TOKENS = 100


def evaluate(run: Run, backend: Backend, received: Sequence[int] = ()) -> tuple[float, float, str] | None:
    """Training loss and validation loss of the present weights in nats a token, and a text they write.

    It gives up, and returns None, as soon as a signal was received.
    """
    splits, means = run.splits, []
    for tokens_N in (splits.training_sample(), splits.validation_tokens()):
        parts = []
        for losses_n in losses_in_parts(backend, tokens_N, splits.block_size):
            if received:
                return None
            parts.append(losses_n)
        means.append(float(np.concatenate(parts).mean(dtype=np.float64)))
    train_loss, val_loss = means
    return train_loss, val_loss, _sample(run, backend)


def _sample(run: Run, backend: Backend) -> str:
    """A text that shows what was learned: from evaluation to evaluation the model alone changes."""
    tokenizer = run.tokenizer
    metadata = Metadata(run.config, tokenizer.vocabulary)
    model = LanguageModel(backend, run.config.model, tokenizer, metadata)
    first = tokenizer.decode(run.splits.train_N[:1])
    prompt = "\n" if "\n" in (tokenizer.vocabulary or "") else first
    return model.generate(prompt, max_tokens=SAMPLE_TOKENS, seed=run.config.training.seed)
