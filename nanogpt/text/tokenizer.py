"""Convert text to tokens and back, by character or with a `tokenizer.json`."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Protocol

import numpy as np

from nanogpt.errors import InputError, told_in_a_line
from nanogpt.files import digests, read_small
from nanogpt.metadata import Metadata


class Tokenizer(Protocol):
    """A mapping between text and the tokens of a model."""

    @property
    def vocabulary(self) -> str | None:
        """The characters of a CharTokenizer, which a checkpoint keeps; None for any other."""

    def encode(self, text: str) -> np.ndarray:
        """Tokens of `text`: int32 `[T]`."""

    def decode(self, tokens_T: np.ndarray) -> str:
        """The text of tokens `[T]`."""


class CharTokenizer:
    """One token for each character of a vocabulary, numbered in the order of their code points."""

    def __init__(self, vocabulary: str) -> None:
        self.vocabulary = vocabulary
        self._code_points = _code_points(vocabulary)
        if (np.diff(self._code_points.astype(np.int64)) <= 0).any():
            raise InputError("a vocabulary must list each character once, in the order of code points")
        self._token_of = np.full(sys.maxunicode + 1, -1, np.int32)
        self._token_of[self._code_points] = np.arange(len(vocabulary))

    @classmethod
    def from_text(cls, text: str) -> "CharTokenizer":
        """The tokenizer that knows the characters of `text` and no others."""
        return cls("".join(map(chr, np.flatnonzero(np.bincount(_code_points(text))))))

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> np.ndarray:
        """Tokens of `text`: int32 `[T]`. Raises InputError naming the first unknown character."""
        tokens_T = self._token_of[_code_points(text)]
        if (unknown := np.flatnonzero(tokens_T < 0)).size:
            position = int(unknown[0])
            raise InputError(
                f"character {text[position]!r} at position {position} is not in the model's vocabulary "
                f"of {self.vocab_size} characters"
            )
        return tokens_T

    def decode(self, tokens_T: np.ndarray) -> str:
        """The text of tokens `[T]`."""
        return "".join(map(chr, self._code_points[np.asarray(tokens_T)]))


class FileTokenizer:
    """The tokenizer of a `tokenizer.json`, run by Hugging Face's library tokenizers."""

    vocabulary = None

    def __init__(self, file: Path) -> None:
        try:
            import tokenizers
        except ImportError:
            raise InputError(
                f'to read {file}, install tokenizers: pip install -c constraints.txt -e ".[huggingface]"'
            ) from None
        with _told_in_a_line(f"{file} can't be read"):
            self._tokenizer = tokenizers.Tokenizer.from_buffer(read_small(file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values(), default=-1)

    def encode(self, text: str) -> np.ndarray:
        """Tokens of `text`, without special tokens around them: int32 `[T]`."""
        with _told_in_a_line(f"the text {text[:40]!r} can't be encoded"):  # as with a lone surrogate
            return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens_T: np.ndarray) -> str:
        """The text of tokens `[T]`, with special tokens. Tokens that only pad the vocabulary have no text."""
        with _told_in_a_line("the tokens can't be decoded"):
            return self._tokenizer.decode(np.asarray(tokens_T).tolist(), skip_special_tokens=False)


@contextmanager
def _told_in_a_line(what: str) -> Iterator[None]:
    """Like told_in_a_line, also for panics of the library tokenizers, which are no Exceptions."""
    with told_in_a_line(what):
        try:
            yield
        except BaseException as error:
            if type(error).__name__ == "PanicException":
                raise RuntimeError(str(error)) from error
            raise


class NoTokenizer:
    """The tokenizer of a model that was imported without one: encode and decode raise InputError."""

    vocabulary = None

    def encode(self, text: str) -> NoReturn:
        raise InputError("this model came without a tokenizer.json: it takes only token ids, not text")

    def decode(self, tokens_T: np.ndarray) -> NoReturn:
        raise InputError("this model came without a tokenizer.json: its token ids have no text")


def find_tokenizer(folder: Path, vocabulary: str | None, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model: that of its vocabulary, else of `tokenizer.json` in its folder, else none.

    Raises InputError if that file can't be read or has more than the model's `vocab_size` tokens.
    """
    if vocabulary is not None:
        return CharTokenizer(vocabulary)
    file = folder / "tokenizer.json"
    if not os.path.lexists(file):
        return NoTokenizer()
    tokenizer = FileTokenizer(file)
    if tokenizer.vocab_size > vocab_size:
        raise InputError(f"{file} has {tokenizer.vocab_size:,} tokens, but the model has {vocab_size:,}")
    return tokenizer


def tokenizer_of(folder: Path, metadata: Metadata) -> Tokenizer:
    """The tokenizer of a checkpoint of the run in a folder.

    Raises InputError if it needs a tokenizer.json that is gone or is another one.
    """
    name = "tokenizer.json"
    known = metadata.digests.get(name)
    if known and digests(folder, [name]).get(name) != known:
        raise InputError(f"{folder / name} is gone, or is not the one that this model was trained with")
    return find_tokenizer(folder, metadata.vocabulary, metadata.config.model.vocab_size)


def decode_stream(tokenizer: Tokenizer, prompt_T: np.ndarray, blocks: Iterable[np.ndarray]) -> Iterator[str]:
    """The text that each block of tokens `[n]` adds to a prompt.

    Every block decodes the whole text again, because the text of a token may depend on the tokens before it.
    """
    tokens_N, told = prompt_T, len(tokenizer.decode(prompt_T))
    for tokens_n in blocks:
        tokens_N = np.append(tokens_N, tokens_n)
        # A character is held back until all of its bytes are there.
        text = tokenizer.decode(tokens_N).rstrip("\ufffd")
        yield text[told:]
        told = max(told, len(text))
    if rest := tokenizer.decode(tokens_N)[told:]:
        yield rest


def _code_points(text: str) -> np.ndarray:
    # With surrogatepass a lone surrogate, as in a broken argument, is an unknown character and not a crash.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
