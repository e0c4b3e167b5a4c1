"""Detectors: the keys that each one selects."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.heads.detectors import INDUCTION, meanings, targets, unit_of
from tests.heads import NAMES, selected_keys

TEXT = "is\n\nROMEO:\nSee his\n\nA man said:\nno: he"
PIECES = ["So", " ho", "pe", "\n\n", "RO", "MEO", ":", "\n", "The", " hope", "ful", " o"]


@pytest.mark.parametrize(
    ("name", "query", "keys"),
    [
        ("previous character", 5, [4]),
        ("previous character", 0, []),
        ("2 back", 5, [3]),
        ("3 back", 5, [2]),
        ("4 back", 5, [1]),
        ("4 back", 3, []),
        ("itself", 5, [5]),
        ("first position", 5, [0]),
        ("first position", 0, []),  # it is the only key so far
        ("same character", TEXT.index("his") + 2, [1]),  # the s; S is another
        ("same character", TEXT.index("e his"), [TEXT.index("ee")]),
        (INDUCTION, TEXT.index("his") + 2, [2]),
        (INDUCTION, TEXT.index("ee") + 1, [TEXT.index("ee") + 1]),  # an e followed the e
        (INDUCTION, TEXT.index("R"), []),
        ("last line break", 3, [2]),
        ("last line break", 4, [3]),
        ("last line break", 2, []),
        ("last colon", TEXT.index("his"), [TEXT.index(":")]),
        ("last colon", TEXT.index(":"), []),
        ("last colon", len(TEXT) - 1, [TEXT.rindex(":")]),
        ("speaker's initial", TEXT.index("OMEO"), [TEXT.index("ROMEO")]),
        ("speaker's initial", TEXT.index("his"), [TEXT.index("ROMEO")]),
        ("speaker's initial", TEXT.index("no:"), [TEXT.index("A man")]),
        ("speaker's initial", 3, []),
        ("start of the word", 1, []),  # the window may begin inside a word
        ("start of the word", TEXT.index("MEO"), [TEXT.index("ROMEO")]),
        ("start of the word", TEXT.index("his") + 2, [TEXT.index("his")]),
        ("start of the word", TEXT.index("his"), []),
        ("start of the word", TEXT.index(" his"), []),
        ("vowels", TEXT.index("MEO"), [0, TEXT.index("OMEO")]),
        ("spaces", TEXT.index("said"), [TEXT.index(" his"), TEXT.index(" man"), TEXT.index(" said")]),
    ],
)
def test_a_detector_selects(name: str, query: int, keys: list[int]) -> None:
    assert selected_keys(TEXT, name, query) == keys


@pytest.mark.parametrize(
    "text", ["\nROMEO:\nhe", "\n\nromeo:\nhe", "\n\nROMEO: he", "ROMEO:\nhe", "\n\nROMEO: no\nhe"]
)
def test_what_only_resembles_a_speaker_is_not_selected(text: str) -> None:
    assert not targets(list(text))[NAMES.index("speaker's initial")].any()


@pytest.mark.parametrize(
    ("name", "query", "keys"),
    [
        ("speaker's initial", "MEO", ["RO"]),
        ("last line break", "RO", ["\n\n"]),
        ("last colon", "The", [":"]),
        ("start of the word", "pe", [" ho"]),
        ("start of the word", "ful", [" hope"]),
        ("start of the word", "MEO", ["RO"]),
        ("start of the word", " hope", []),
    ],
)
def test_a_detector_reads_longer_tokens(name: str, query: str, keys: list[str]) -> None:
    assert [PIECES[key] for key in selected_keys(PIECES, name, PIECES.index(query))] == keys


def test_longer_tokens_are_called_tokens() -> None:
    assert "previous character" in meanings(unit_of(list(TEXT)))
    assert "previous token" in meanings(unit_of(PIECES))
    assert not any("character" in name + meaning for name, meaning in meanings("token").items())


@given(st.lists(st.sampled_from(["a", "B", " ", ":", "\n", "'", "\n\n", " Ab", ":\n", "\ufffd", ""])))
def test_no_detector_selects_the_future_or_all_keys_so_far(texts: list[str]) -> None:
    if texts:
        targets_JTS = targets(texts)
        assert not np.triu(targets_JTS, 1).any()
        assert (targets_JTS.sum(-1) <= np.arange(len(texts))).all()
