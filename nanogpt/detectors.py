"""Where a head might look: for each position of a text, the earlier ones that a detector counts."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np


class Window:
    """A window's tokens as their texts, and what detectors ask of them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.position_T = np.arange(len(texts))
        self.back_TS = self.position_T[:, None] - self.position_T
        """How far each key lies behind each query."""
        # Numbers compare sooner than texts.
        self.kind_T = np.unique(texts, return_inverse=True)[1]

    def which(self, is_one: Callable[[str], bool]) -> np.ndarray:
        """The tokens of whose text something holds: bool `[T]`."""
        return np.array([is_one(text) for text in self.texts])

    def every(self, chosen_T: np.ndarray) -> np.ndarray:
        """All the chosen tokens before each query: bool `[T, S]`."""
        return chosen_T & (self.back_TS > 0)

    def last(self, chosen_T: np.ndarray) -> np.ndarray:
        """The last of the chosen tokens before each query: bool `[T, S]`."""
        last_T = np.maximum.accumulate(np.where(chosen_T, self.position_T, -1))
        return np.append(-1, last_T[:-1])[:, None] == self.position_T

    def same(self) -> np.ndarray:
        return self.kind_T[:, None] == self.kind_T

    def speakers_initial(self) -> np.ndarray:
        """A speaker's line follows an empty one, begins with a capital and ends in a colon."""
        token_of_character = np.repeat(self.position_T, [len(text) for text in self.texts])
        lines = re.finditer(r"(?<=\n\n)[^\n]+(?=:\n)", "".join(self.texts))
        starts = [line.start() for line in lines if line[0][0].isupper()]
        return self.last(np.isin(self.position_T, token_of_character[starts]))

    def start_of_word(self) -> np.ndarray:
        """A word is of letters, digits, _ and '; the one that the window begins in has no known start."""
        begins_T = self.which(lambda text: bool(re.match(r"[\w']", text)))
        ends_T = self.which(lambda text: bool(re.search(r"[\w']\Z", text)))
        inside_T = begins_T & np.append(True, ends_T[:-1])
        starts_T = self.which(lambda text: bool(re.match(r"\s*[\w']", text))) & ~inside_T
        return self.last(starts_T) & inside_T[:, None]


@dataclass(frozen=True)
class Detector:
    """A guess at what a head looks for."""

    name: str
    meaning: str
    find: Callable[[Window], np.ndarray]
    """The keys it counts for each query, bool `[T, S]` or alike; `targets` takes the future away."""
    of_content: bool = True
    """Whether it depends on the text, and not on positions alone."""


INDUCTION = "induction"
DETECTORS = [
    Detector("previous character", "the character just before", lambda w: w.back_TS == 1, False),
    Detector("2 back", "the character 2 before", lambda w: w.back_TS == 2, False),
    Detector("3 back", "the character 3 before", lambda w: w.back_TS == 3, False),
    Detector("4 back", "the character 4 before", lambda w: w.back_TS == 4, False),
    Detector("itself", "the character itself", lambda w: w.back_TS == 0, False),
    Detector("first position", "the first character of the window", lambda w: w.position_T == 0, False),
    Detector("same character", "the same character, earlier", lambda w: w.same() & (w.back_TS > 0)),
    Detector(
        INDUCTION,
        "what followed the same character before",
        lambda w: np.pad(w.same() & (w.back_TS > 0), ((0, 0), (1, 0)))[:, :-1],
    ),
    Detector("last line break", "the last line break", lambda w: w.last(w.which(lambda x: "\n" in x))),
    Detector("last colon", "the last colon", lambda w: w.last(w.which(lambda x: ":" in x))),
    Detector("speaker's initial", "the first letter of the last speaker's name", Window.speakers_initial),
    Detector("start of the word", "the first character of the word it is in", Window.start_of_word),
    Detector("vowels", "every vowel before", lambda w: w.every(w.which(lambda x: x.lower() in [*"aeiou"]))),
    Detector("spaces", "every space before", lambda w: w.every(w.which(lambda x: x == " "))),
]


def unit_of(texts: Iterable[str]) -> str:
    """What to call a token, by the texts of all of them."""
    return "character" if all(len(text) == 1 for text in texts) else "token"


def meanings(unit: str) -> dict[str, str]:
    """What each detector counts, by its name."""
    return {d.name.replace("character", unit): d.meaning.replace("character", unit) for d in DETECTORS}


def targets(texts: Sequence[str]) -> np.ndarray:
    """The keys that each detector counts for each query of a window: bool `[J, T, S]`, none in the future.

    Queries for which a detector counts all keys so far are left out too: there, every head scores 1.
    """
    window = Window(texts)
    so_far_TS = window.back_TS >= 0
    counted_JTS = np.stack([detector.find(window) & so_far_TS for detector in DETECTORS])
    is_open_JT = counted_JTS.sum(-1) <= window.position_T
    return counted_JTS & is_open_JT[..., None]
