"""A continuation ends before its stop text, however it comes in pieces; nothing after it is computed."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanogpt
from nanogpt.cli.sample import sample_main
from nanogpt.sampling import TOKENS_PER_BLOCK
from nanogpt.text.stop import before_stop
from tests.conftest import BACKENDS

TEXTS = st.text("ab\n", max_size=40)
STOPS = st.text("ab\n", min_size=1, max_size=5)
CUTS = st.lists(st.integers(0, 40)).map(sorted)


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    return [text[start:stop] for start, stop in itertools.pairwise([0, *cuts, len(text)])]


@given(TEXTS, STOPS, CUTS)
def test_the_text_ends_before_the_stop_text(text: str, stop: str, cuts: list[int]) -> None:
    assert "".join(before_stop(pieces_of(text, cuts), (stop,))) == text.split(stop)[0]


@given(TEXTS, st.lists(STOPS, max_size=3).map(tuple), CUTS)
def test_of_several_stop_texts_the_one_that_is_complete_first_counts(
    text: str, stops: tuple[str, ...], cuts: list[int]
) -> None:
    expected = text
    for end in range(len(text), 0, -1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            expected = text[: end - max(map(len, complete))]
    assert "".join(before_stop(pieces_of(text, cuts), stops)) == expected


@given(TEXTS, STOPS, CUTS)
def test_nothing_is_held_back_but_what_may_begin_the_stop_text(text: str, stop: str, cuts: list[int]) -> None:
    taken = ""

    def pieces() -> Iterator[str]:
        nonlocal taken
        for piece in pieces_of(text, cuts):
            assert stop not in taken
            taken += piece
            yield piece

    told = ""
    for piece in before_stop(pieces(), (stop,)):
        told += piece
        assert stop in taken or stop.startswith(taken[len(told) :])


@pytest.mark.parametrize("backend", BACKENDS)
def test_generation_stops_with_the_text(
    backend: str, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nanogpt.load(finished_run, backend=backend)
    prompt = "the king "
    whole = model.generate(prompt, max_tokens=200).removeprefix(prompt)
    stop = whole[TOKENS_PER_BLOCK - 2 : TOKENS_PER_BLOCK + 2]  # It lies in two blocks.
    computed, generate = [], model.backend.generate

    def counted(*arguments: object) -> Iterator[object]:
        for tokens_BN in generate(*arguments):
            computed.append(tokens_BN.shape[1])
            yield tokens_BN

    monkeypatch.setattr(model.backend, "generate", counted)
    for stops in (stop, ["not written", stop]):
        computed.clear()
        cut = whole.split(stop)[0]
        assert model.generate(prompt, max_tokens=200, stop=stops) == prompt + cut
        assert sum(computed) < len(cut) + len(stop) + TOKENS_PER_BLOCK
    # The prompt is not looked into.
    assert model.generate(prompt, max_tokens=5, stop="king ") == prompt + whole[:5].split("king ")[0]


def test_the_flag_ends_every_sample(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        f"--out_dir={finished_run}",
        "--backend=torch",
        "--prompt=the ",
        "--max_tokens=60",
        "--stop",
        "e",
    ]
    assert sample_main([*flags, "--num_samples=3", "--stop", "\n"]) == 0
    model = nanogpt.load(finished_run, backend="torch")
    continued = ["".join(model.stream("the ", max_tokens=60, sample=sample)) for sample in range(3)]
    told = ["the " + text.split("e")[0].split("\n")[0] for text in continued]
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in told)
    assert sample_main([*flags, "--stop="]) == 2
    assert "a stop text is empty" in capsys.readouterr().err
