"""An evaluation: both losses, exact, and a short text."""

from nanogpt.backend import Backend
from nanogpt.language_model import LanguageModel, mean_loss
from nanogpt.metadata import Metadata
from nanogpt.training.run import Run

SAMPLE_TOKENS = 100


def evaluate(run: Run, backend: Backend) -> tuple[float, float, str]:
    """Training loss and validation loss of the present weights in nats a token, and a text they write."""
    splits = run.splits
    train_loss, val_loss = (
        mean_loss(backend, tokens_N, splits.block_size)
        for tokens_N in (splits.training_sample(), splits.validation_tokens())
    )
    return train_loss, val_loss, _sample(run, backend)


def _sample(run: Run, backend: Backend) -> str:
    """A text that shows what was learned: from evaluation to evaluation the model alone changes."""
    tokenizer = run.tokenizer
    metadata = Metadata(run.config, tokenizer.vocabulary)
    model = LanguageModel(backend, run.config.model, tokenizer, metadata)
    first = tokenizer.decode(run.splits.train_N[:1])
    prompt = "\n" if "\n" in (tokenizer.vocabulary or "") else first
    return model.generate(prompt, max_tokens=SAMPLE_TOKENS, seed=run.config.training.seed)
