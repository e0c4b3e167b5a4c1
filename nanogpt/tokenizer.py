"""Characters to tokens and back."""

import sys

import numpy as np

from nanogpt.errors import InputError


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
                f"character {text[position]!a} at position {position} is not in the model's vocabulary "
                f"of {self.vocab_size} characters"
            )
        return tokens_T

    def decode(self, tokens_T: np.ndarray) -> str:
        """The text of tokens `[T]`."""
        return "".join(map(chr, self._code_points[np.asarray(tokens_T)]))


def _code_points(text: str) -> np.ndarray:
    # A lone surrogate (from a broken argument, say) must become an unknown character, not a crash.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
