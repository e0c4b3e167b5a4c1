"""Convert text to tokens and back, by character or with a `tokenizer.json` (learnt by text/vocabulary.py)."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np

from nanogpt.errors import InputError, told_in_a_line
from nanogpt.files import digests, read_small
from nanogpt.metadata import Metadata, SpecialTokens

CONTEXT = 16  # tokens that are decoded together with new ones: no character has so many
UNREADABLE = "\ufffd"  # stands in a decoded text for bytes that are no character
END_OF_TEXT = "<|endoftext|>"  # GPT-2's name of the token between two texts
ENDS_OF_TEXT = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")  # GPT-2's, Llama 3's, Llama 2's, Gemma's


class Tokenizer(Protocol):
    """A mapping between text and the tokens of a model."""

    @property
    def vocabulary(self) -> str | None:
        """The characters of a CharTokenizer, which a checkpoint keeps; None for any other."""

    @property
    def special_tokens(self) -> SpecialTokens:
        """Ids of tokens that stand for no text: an empty prompt becomes bos, and eos ends a text."""

    @property
    def sha256(self) -> str:
        """That of the characters of a CharTokenizer, or of the `tokenizer.json`: which tokenizer it is."""

    def encode(self, text: str) -> np.ndarray:
        """Tokens of `text`: int32 `[T]`."""

    def decode(self, tokens_T: np.ndarray) -> str:
        """The text of tokens `[T]`."""


class CharTokenizer:
    """One token for each character of a vocabulary, numbered in the order of their code points."""

    def __init__(self, vocabulary: str) -> None:
        self.vocabulary = vocabulary
        self.special_tokens: SpecialTokens = {}
        self._code_points = code_points(vocabulary)
        if (np.diff(self._code_points.astype(np.int64)) <= 0).any():
            raise InputError("a vocabulary must list each character once, in the order of code points")
        self._token_of = np.full(sys.maxunicode + 1, -1, np.int32)
        self._token_of[self._code_points] = np.arange(len(vocabulary))

    @classmethod
    def from_text(cls, text: str) -> "CharTokenizer":
        """The tokenizer that knows the characters of `text` and no others."""
        return cls("".join(map(chr, np.flatnonzero(np.bincount(code_points(text))))))

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.vocabulary.encode("utf-8", "surrogatepass")).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """Tokens of `text`: int32 `[T]`. Raises InputError naming the first unknown character."""
        tokens_T = self._token_of[code_points(text)]
        if (unknown := np.flatnonzero(tokens_T < 0)).size:
            position = int(unknown[0])
            raise InputError(
                f"character {text[position]!r} at position {position} is not in the model's vocabulary "
                f"of {self.vocab_size} characters"
            )
        return tokens_T

    def encode_all(self, texts: list[str]) -> list[np.ndarray]:
        """The tokens of each text by itself."""
        return [self.encode(text) for text in texts]

    def decode(self, tokens_T: np.ndarray) -> str:
        """The text of tokens `[T]`."""
        return "".join(map(chr, self._code_points[np.asarray(tokens_T)]))


class FileTokenizer:
    """The tokenizer of a `tokenizer.json`, run by Hugging Face's library tokenizers.

    A text that quotes a special token, as this one does `<|endoftext|>`, is encoded like any other text.
    """

    vocabulary = None

    def __init__(
        self, file: Path, content: bytes | None = None, special_tokens: SpecialTokens | None = None
    ) -> None:
        """`content` is what is to be in the file, where it has not been written yet.

        Without `special_tokens`, a special token `<|endoftext|>` of the file begins and ends a text.
        """
        tokenizers = tokenizers_library(f"to read {file}")
        with told_even_panics(f"{file} can't be read"):
            content = read_small(file) if content is None else content
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # as text, for whoever writes one only quotes it
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values(), default=-1)
        added = self._tokenizer.get_added_tokens_decoder().items()
        special = {token.content: number for number, token in added if token.special}
        ends = [special[name] for name in ENDS_OF_TEXT if name in special]
        of_file: SpecialTokens = {"eos_token_id": ends[0]} if ends else {}
        if END_OF_TEXT in special:
            of_file["bos_token_id"] = special[END_OF_TEXT]
        self.special_tokens = of_file if special_tokens is None else special_tokens

    def encode(self, text: str) -> np.ndarray:
        """Tokens of `text`, without special tokens around them: int32 `[T]`."""
        with told_even_panics(f"the text {text[:40]!r} can't be encoded"):  # as with a lone surrogate
            return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_all(self, texts: list[str]) -> list[np.ndarray]:
        """The tokens of each text by itself, computed on all cores."""
        with told_even_panics("the text can't be encoded"):
            encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            return [np.array(one.ids, np.int32) for one in encoded]

    def decode(self, tokens_T: np.ndarray) -> str:
        """The text of tokens `[T]`, with special tokens. Tokens that only pad the vocabulary have no text."""
        with told_even_panics("the tokens can't be decoded"):
            return self._tokenizer.decode(np.asarray(tokens_T).tolist(), skip_special_tokens=False)


def tokenizers_library(purpose: str) -> Any:
    """Hugging Face's tokenizers. Raises InputError where it is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise InputError(
            f'{purpose}, install tokenizers: pip install -c constraints.txt -e ".[huggingface]"'
        ) from None
    return tokenizers


@contextmanager
def told_even_panics(what: str) -> Iterator[None]:
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

    vocabulary, sha256 = None, ""

    def __init__(self, special_tokens: SpecialTokens | None = None) -> None:
        self.special_tokens = special_tokens or {}

    def encode(self, text: str) -> NoReturn:
        raise InputError("this model came without a tokenizer.json: it takes only token ids, not text")

    def decode(self, tokens_T: np.ndarray) -> NoReturn:
        raise InputError("this model came without a tokenizer.json: its token ids have no text")


class NewTokenizer(NamedTuple):
    """The tokenizer of a run that begins."""

    name: str
    """As `--tokenizer` names it."""
    tokenizer: Tokenizer
    vocab_size: int
    content: bytes | None
    """The tokenizer.json that is still to be written."""


def find_tokenizer(
    folder: Path,
    vocabulary: str | None,
    vocab_size: int,
    content: bytes | None = None,
    special_tokens: SpecialTokens | None = None,
) -> Tokenizer:
    """The tokenizer of a model: that of its vocabulary, else of `tokenizer.json` in its folder, else none.

    `content` is what that file will hold, where it has not been written yet; it is empty for no file.
    Raises InputError if that file can't be read or has more than the model's `vocab_size` tokens.
    """
    if vocabulary is not None:
        return CharTokenizer(vocabulary)
    file = folder / "tokenizer.json"
    if not (os.path.lexists(file) if content is None else content):
        return NoTokenizer(special_tokens)
    tokenizer = FileTokenizer(file, content, special_tokens)
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
    vocab_size, special_tokens = metadata.config.model.vocab_size, metadata.special_tokens
    return find_tokenizer(folder, metadata.vocabulary, vocab_size, special_tokens=special_tokens)


def decode_stream(tokenizer: Tokenizer, prompt_T: np.ndarray, blocks: Iterable[np.ndarray]) -> Iterator[str]:
    """The text that each block of tokens `[n]` adds to a prompt, in time linear in the length of the text.

    The text of a token may depend on those before it, so new tokens are decoded together with a few that were
    told. Up to three are held back while they are the beginning of a character.
    """
    context_T, new_N = prompt_T[-CONTEXT:], prompt_T[:0]
    for tokens_n in blocks:
        new_N = np.append(new_N, tokens_n)
        told, text = tokenizer.decode(context_T), tokenizer.decode(np.append(context_T, new_N))
        held = 0
        while text.endswith(UNREADABLE) and held < 3 and held < len(new_N):
            held += 1
            text = tokenizer.decode(np.append(context_T, new_N[:-held]))
        if text.endswith(UNREADABLE):  # no beginning of a character, but bytes that are none
            held, text = 0, tokenizer.decode(np.append(context_T, new_N))
        yield text[len(told) :]
        context_T = np.append(context_T, new_N[: len(new_N) - held])[-CONTEXT:]
        new_N = new_N[len(new_N) - held :]
    if rest := tokenizer.decode(np.append(context_T, new_N))[len(tokenizer.decode(context_T)) :]:
        yield rest


def code_points(text: str) -> np.ndarray:
    # With surrogatepass a lone surrogate, as in a broken argument, is an unknown character and not a crash.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
