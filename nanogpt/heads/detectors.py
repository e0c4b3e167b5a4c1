"""Detectors: rules that select, for each query of a text, the keys that a head might attend to."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np


class Window:
    """The texts of a window's tokens, and the positions that detectors select among them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.position_T = np.arange(len(texts))
        self.distance_TS = self.position_T[:, None] - self.position_T
        """Distance of each key behind each query, in tokens; negative for future keys."""
        # Numbers are faster to compare than texts.
        self._text_number_T = np.unique(texts, return_inverse=True)[1]

    def where(self, condition: Callable[[str], bool]) -> np.ndarray:
        """Mask of the tokens whose text meets the condition: bool `[T]`."""
        return np.array([condition(text) for text in self.texts])

    def all_before(self, chosen_T: np.ndarray) -> np.ndarray:
        """All the chosen tokens before each query: bool `[T, S]`."""
        return chosen_T & (self.distance_TS > 0)

    def last_before(self, chosen_T: np.ndarray) -> np.ndarray:
        """The last of the chosen tokens before each query: bool `[T, S]`."""
        last_T = np.maximum.accumulate(np.where(chosen_T, self.position_T, -1))
        return np.append(-1, last_T[:-1])[:, None] == self.position_T

    def same_before(self) -> np.ndarray:
        """All earlier tokens with the text of the query: bool `[T, S]`."""
        return (self._text_number_T[:, None] == self._text_number_T) & (self.distance_TS > 0)

    def speaker_initial(self) -> np.ndarray:
        """The first letter of the last speaker's name before each query: bool `[T, S]`.

        A speaker's line follows an empty line, begins with a capital and ends in a colon.
        """
        token_of_character = np.repeat(self.position_T, [len(text) for text in self.texts])
        lines = re.finditer(r"(?<=\n\n)[^\n]+(?=:\n)", "".join(self.texts))
        starts = [line.start() for line in lines if line[0][0].isupper()]
        return self.last_before(np.isin(self.position_T, token_of_character[starts]))

    def start_of_word(self) -> np.ndarray:
        """The first token of the word that each query is in: bool `[T, S]`.

        A word consists of letters, digits, _ and '. If the window begins inside a word, its start is unknown.
        """
        begins_T = self.where(lambda text: bool(re.match(r"[\w']", text)))
        ends_T = self.where(lambda text: bool(re.search(r"[\w']\Z", text)))
        inside_T = begins_T & np.append(True, ends_T[:-1])
        starts_T = self.where(lambda text: bool(re.match(r"\s*[\w']", text))) & ~inside_T
        return self.last_before(starts_T) & inside_T[:, None]


@dataclass(frozen=True)
class Detector:
    """A rule that selects keys for each query, as a guess at what a head attends to."""

    name: str
    meaning: str
    find: Callable[[Window], np.ndarray]
    """The selected keys, bool `[T, S]` or a shape that broadcasts to it; `targets` removes future keys."""
    depends_on_text: bool = True
    """False if the rule depends on positions alone."""


INDUCTION = "induction"
DETECTORS = [
    Detector("previous character", "the character just before", lambda w: w.distance_TS == 1, False),
    Detector("2 back", "the character 2 before", lambda w: w.distance_TS == 2, False),
    Detector("3 back", "the character 3 before", lambda w: w.distance_TS == 3, False),
    Detector("4 back", "the character 4 before", lambda w: w.distance_TS == 4, False),
    Detector("itself", "the character itself", lambda w: w.distance_TS == 0, False),
    Detector("first position", "the first character of the window", lambda w: w.position_T == 0, False),
    Detector("same character", "the same character, earlier", Window.same_before),
    Detector(
        INDUCTION,
        "what followed the same character before",
        lambda w: np.pad(w.same_before(), ((0, 0), (1, 0)))[:, :-1],
    ),
    Detector("last line break", "the last line break", lambda w: w.last_before(w.where(lambda x: "\n" in x))),
    Detector("last colon", "the last colon", lambda w: w.last_before(w.where(lambda x: ":" in x))),
    Detector("speaker's initial", "the first letter of the last speaker's name", Window.speaker_initial),
    Detector("start of the word", "the first character of the word it is in", Window.start_of_word),
    Detector(
        "vowels", "every vowel before", lambda w: w.all_before(w.where(lambda x: x.lower() in [*"aeiou"]))
    ),
    Detector("spaces", "every space before", lambda w: w.all_before(w.where(lambda x: x == " "))),
]


def unit_of(texts: Iterable[str]) -> str:
    """The word for one token of a vocabulary: "character" if all texts have length 1, else "token"."""
    return "character" if all(len(text) == 1 for text in texts) else "token"


def meanings(unit: str) -> dict[str, str]:
    """The meaning of each detector, by its name, with `unit` in place of "character"."""
    return {d.name.replace("character", unit): d.meaning.replace("character", unit) for d in DETECTORS}


def targets(texts: Sequence[str]) -> np.ndarray:
    """The keys that each detector selects for each query of a window: bool `[J, T, S]`, none in the future.

    A query for which a detector selects all keys so far has no targets: every head would score 1 there.
    """
    window = Window(texts)
    so_far_TS = window.distance_TS >= 0
    selected_JTS = np.stack([detector.find(window) & so_far_TS for detector in DETECTORS])
    has_others_JT = selected_JTS.sum(-1) <= window.position_T
    return selected_JTS & has_others_JT[..., None]
