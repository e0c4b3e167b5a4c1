"""Characters to tokens and back."""

import numpy as np

from nanogpt.errors import InputError


class CharTokenizer:
    """One token for each character of a vocabulary, numbered in the order of their code points."""

    def __init__(self, vocabulary: str) -> None:
        self.vocabulary = vocabulary
        self._code_points = _code_points(vocabulary)
        if (np.diff(self._code_points.astype(np.int64)) <= 0).any():
            raise InputError("a vocabulary must list each character once, in the order of code points")

    @classmethod
    def from_text(cls, text: str) -> "CharTokenizer":
        """The tokenizer that knows the characters of `text` and no others."""
        return cls("".join(map(chr, np.unique(_code_points(text)))))

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> np.ndarray:
        """Tokens of `text`: int32 `[T]`. Raises InputError naming the first unknown character."""
        code_points_T = _code_points(text)
        tokens_T = np.searchsorted(self._code_points, code_points_T).clip(max=self.vocab_size - 1)
        unknown = np.flatnonzero(self._code_points[tokens_T] != code_points_T)
        if unknown.size:
            position = int(unknown[0])
            raise InputError(
                f"character {text[position]!a} at position {position} is not in the model's vocabulary "
                f"of {self.vocab_size} characters"
            )
        return tokens_T.astype(np.int32)

    def decode(self, tokens_T: np.ndarray) -> str:
        """The text of tokens `[T]`."""
        return "".join(map(chr, self._code_points[np.asarray(tokens_T)]))


def _code_points(text: str) -> np.ndarray:
    # A lone surrogate (from a broken argument, say) must become an unknown character, not a crash.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
