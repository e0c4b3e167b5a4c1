"""What heads are said to do: what detectors count, what is made of it, and how sure it must be."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanogpt
import nanogpt.heads.measure
from nanogpt.choice import load_backend
from nanogpt.config import ModelConfig
from nanogpt.files import read_lines
from nanogpt.heads.detectors import DETECTORS, INDUCTION, meanings, targets, unit_of
from nanogpt.heads.measure import HeadReport, measure_heads
from nanogpt.heads.scores import Estimate, Looks, resampled, spread_windows
from nanogpt.randomness import normals, random_bits, uniforms
from nanogpt.state import TrainingState
from tests.conftest import BACKENDS, Train
from tests.test_training import interrupt_after

NAMES = [detector.name for detector in DETECTORS]
TEXT = "is\n\nROMEO:\nSee his\n\nA man said:\nno: he"
PIECES = ["So", " ho", "pe", "\n\n", "RO", "MEO", ":", "\n", "The", " hope", "ful", " o"]


def counted(texts: str | list[str], name: str, query: int) -> list[int]:
    """The keys that a detector counts for one query."""
    return np.flatnonzero(targets(list(texts))[NAMES.index(name), query]).tolist()


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
        ("first position", 0, []),  # nothing else is there to look at
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
        ("start of the word", 1, []),  # nobody knows whether the window began inside a word
        ("start of the word", TEXT.index("MEO"), [TEXT.index("ROMEO")]),
        ("start of the word", TEXT.index("his") + 2, [TEXT.index("his")]),
        ("start of the word", TEXT.index("his"), []),
        ("start of the word", TEXT.index(" his"), []),
        ("vowels", TEXT.index("MEO"), [0, TEXT.index("OMEO")]),
        ("spaces", TEXT.index("said"), [TEXT.index(" his"), TEXT.index(" man"), TEXT.index(" said")]),
    ],
)
def test_a_detector_counts(name: str, query: int, keys: list[int]) -> None:
    assert counted(TEXT, name, query) == keys


@pytest.mark.parametrize(
    "text", ["\nROMEO:\nhe", "\n\nromeo:\nhe", "\n\nROMEO: he", "ROMEO:\nhe", "\n\nROMEO: no\nhe"]
)
def test_what_only_resembles_a_speaker_is_none(text: str) -> None:
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
    assert [PIECES[key] for key in counted(PIECES, name, PIECES.index(query))] == keys


def test_longer_tokens_are_called_tokens() -> None:
    assert "previous character" in meanings(unit_of(list(TEXT)))
    assert "previous token" in meanings(unit_of(PIECES))
    assert not any("character" in name + meaning for name, meaning in meanings("token").items())


@given(st.lists(st.sampled_from(["a", "B", " ", ":", "\n", "'", "\n\n", " Ab", ":\n", "\ufffd", ""])))
def test_no_detector_sees_the_future_or_asks_what_all_heads_answer(texts: list[str]) -> None:
    if texts:
        counted_JTS = targets(texts)
        assert not np.triu(counted_JTS, 1).any()
        assert (counted_JTS.sum(-1) <= np.arange(len(texts))).all()


def random_attention(*shape: int) -> np.ndarray:
    weights = np.tril(uniforms(1, "attention", 0, math.prod(shape)).reshape(shape) + 0.01)
    return weights / weights.sum(-1, keepdims=True)


def test_looks_are_those_of_a_slow_loop() -> None:
    T = len(TEXT)
    weights_LHTS, counted_JTS = random_attention(2, 3, T, T), targets(list(TEXT))
    looks = Looks.of(weights_LHTS, counted_JTS)
    for layer, head, number in np.ndindex(2, 3, len(NAMES)):
        shares, evenly = {}, {}
        for query in range(T):
            keys = [key for key in range(T) if counted_JTS[number, query, key]]
            if keys:
                shares[query] = sum(float(weights_LHTS[layer, head, query, key]) for key in keys)
                evenly[query] = len(keys) / (query + 1)
        place = (layer, head, number)
        assert looks.on_targets[place] == pytest.approx(sum(shares.values()), rel=1e-5)
        assert looks.uniform[number] == pytest.approx(sum(evenly.values()))
        assert looks.queries[number] == len(shares)
        if shares:
            most_at = max(shares, key=lambda query: shares[query] - evenly[query])
            assert looks.most_at[place] == most_at
            assert looks.most[place] == pytest.approx(shares[most_at] - evenly[most_at], abs=1e-5)
    for layer, head in np.ndindex(2, 3):
        rows = [weights_LHTS[layer, head, query, : query + 1].tolist() for query in range(T)]
        bits = [-sum(weight * math.log2(weight) for weight in row) for row in rows]
        back = [sum(weight * (len(row) - 1 - key) for key, weight in enumerate(row)) for row in rows]
        assert looks.entropy[layer, head] == pytest.approx(sum(bits) / T, rel=1e-5)
        assert looks.distance[layer, head] == pytest.approx(sum(back) / T, rel=1e-5)


def test_an_interval_is_as_wide_as_windows_differ() -> None:
    values_W = 3 + normals(2, "windows", 0, 64).astype(np.float64)
    estimate = Estimate.of(resampled(values_W))
    assert estimate.mean == pytest.approx(values_W.mean())
    half_width = float(1.96 * values_W.std() / 8)
    assert estimate.low == pytest.approx(values_W.mean() - half_width, abs=0.1 * half_width)
    assert estimate.high == pytest.approx(values_W.mean() + half_width, abs=0.1 * half_width)
    # Windows differ, yet one of two measures is above the other by as much in each of them.
    paired = Estimate.of(resampled(values_W + 0.5) - resampled(values_W))
    assert (paired.low, paired.high) == pytest.approx((0.5, 0.5))


def test_a_mean_over_queries_weighs_windows_by_their_queries() -> None:
    sums_W, queries_W = np.array([1.0, 0.0, 8.0]), np.array([2, 0, 8])
    assert resampled(sums_W, queries_W)[0] == pytest.approx(0.9)
    assert np.isfinite(resampled(sums_W, queries_W)).all()


def test_windows_are_spread_over_the_text_and_do_not_overlap() -> None:
    tokens_WT1 = spread_windows(np.arange(1003), 10, 7)
    assert tokens_WT1.shape == (7, 11)
    assert (np.diff(tokens_WT1) == 1).all()
    starts = tokens_WT1[:, 0]
    assert starts[0] == 0
    assert starts[-1] == 990
    assert np.ptp(np.diff(starts)) <= 10
    assert len(spread_windows(np.arange(1003), 10, 1000)) == 100


@pytest.fixture(scope="module")
def reports(finished_run: Path, text_file: Path) -> dict[str, HeadReport]:
    """Of a trained model, by backend."""
    return {backend: measured(finished_run, text_file, backend) for backend in BACKENDS}


def measured(run: Path, text_file: Path, backend: str) -> HeadReport:
    model = nanogpt.load(run, backend=backend)
    state, _ = nanogpt.language_model.read_checkpoint(run)
    tokens_N = model.tokenizer.encode(text_file.read_text(encoding="utf-8"))[-1500:]
    texts = list(model.tokenizer.vocabulary or "")
    return measure_heads(model.backend, model.config, state.weights, tokens_N, texts, windows=16)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_report_is_whole_and_said_in_json(
    backend: str, reports: dict[str, HeadReport], text_file: Path
) -> None:
    report = reports[backend]
    values = json.loads(json.dumps(asdict(report), allow_nan=False))
    assert [(head["layer"], head["head"]) for head in values["heads"]] == [(0, 0), (0, 1)]
    assert report.windows == 16
    assert values["detectors"].keys() == set(NAMES)
    assert "speaker's initial" not in report.heads[0].scores  # this text has no speakers
    for head in report.heads:
        for score in head.scores.values():
            assert 0 <= score.share.low <= score.share.mean <= score.share.high <= 1
            assert score.excess.mean <= score.share.mean - score.uniform + 1e-9
        assert head.sentence
        example = head.example
        assert "".join(example.text) in text_file.read_text(encoding="utf-8")
        assert len(example.weights) == example.query + 1 <= len(example.text)
        assert 0 < sum(example.weights) <= 1
        assert all(0 <= weight <= 1 for weight in example.weights)


def test_both_backends_report_alike(reports: dict[str, HeadReport]) -> None:
    one, other = (flat(asdict(reports[backend])) for backend in BACKENDS)
    assert one.keys() == other.keys()
    for path, value in one.items():
        assert other[path] == (pytest.approx(value, abs=2e-4) if isinstance(value, float) else value), path


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The numbers and words of a nested value, by their paths."""
    if isinstance(value, dict):
        return {p: v for key, item in value.items() for p, v in flat(item, f"{path}.{key}").items()}
    if isinstance(value, list | tuple):
        return {p: v for key, item in enumerate(value) for p, v in flat(item, f"{path}.{key}").items()}
    return {path: value}


def test_a_report_is_the_same_the_next_time(
    finished_run: Path, text_file: Path, reports: dict[str, HeadReport]
) -> None:
    assert measured(finished_run, text_file, "torch") == reports["torch"]


CONFIG = ModelConfig(vocab_size=40, block_size=32, n_layer=2, n_head=2, n_embd=16, dropout=0)
TEXTS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ:\n '")[: CONFIG.vocab_size]


LEXICON = ["the", "king", "hath", "no", "horse", "\n", "A:", "sleep", "I"]
PICKS = random_bits(3, "corpus", 0, 800) % np.uint64(len(LEXICON))
TOKENS_N = np.array([TEXTS.index(c) for c in " ".join(LEXICON[pick] for pick in PICKS)], np.int32)


def test_a_model_that_has_learned_nothing_gets_no_role() -> None:
    state = TrainingState.initial(CONFIG, 4)
    backend = load_backend("torch")(CONFIG, None, state)
    report = measure_heads(backend, CONFIG, state.weights, TOKENS_N, TEXTS)
    assert [head.role for head in report.heads] == [None] * 4
    assert all("No role fits it" in head.sentence for head in report.heads)


def test_a_head_that_looks_everywhere_alike_has_no_excess() -> None:
    state = TrainingState.initial(CONFIG, 4)
    for layer in range(CONFIG.n_layer):
        state.weights[f"blocks.{layer}.attention.query_key_value.kernel"][:, : 2 * CONFIG.n_embd] = 0
    backend = load_backend("torch")(CONFIG, None, state)
    report = measure_heads(backend, CONFIG, state.weights, TOKENS_N, TEXTS)
    for head in report.heads:
        assert head.repeats.mean == pytest.approx(report.repeats_uniform, abs=1e-5)
        assert head.entropy.mean == pytest.approx(np.log2(np.arange(1, 33)).mean(), abs=1e-5)
        assert head.distance.mean == pytest.approx(31 / 4, abs=1e-4)
        for name, score in head.scores.items():
            assert score.share.mean == pytest.approx(score.uniform, abs=1e-5), name
            assert score.excess.mean <= 1e-5


class Made:
    """A backend of one layer of heads that look where they are told to."""

    def __init__(self, *heads: str) -> None:
        self.heads = heads

    def attention(self, tokens_BT: np.ndarray) -> np.ndarray:
        B, T = tokens_BT.shape
        weights_BHTS = np.zeros((1, B, len(self.heads), T, T), np.float32)
        for row, tokens_T in enumerate(tokens_BT):
            counted_JTS = targets([TEXTS[token] for token in tokens_T])
            repeats = (tokens_T[: T // 2] == tokens_T[T // 2 :]).all()
            for number, head in enumerate(self.heads):
                # A rule that one word breaks is no rule.
                name = "itself" if head == "only in words" and repeats else head
                name = INDUCTION if name == "only in words" else name
                keys_TS = counted_JTS[NAMES.index(name)] + 1e-9 * np.tri(T)
                weights_BHTS[0, row, number] = keys_TS / keys_TS.sum(-1, keepdims=True)
        return weights_BHTS

    def losses(self, tokens_BT1: np.ndarray) -> np.ndarray:
        return np.ones((len(tokens_BT1), tokens_BT1.shape[1] - 1), np.float32)


def report_of(made: Made, rise: float, monkeypatch: pytest.MonkeyPatch) -> HeadReport:
    """What is said of heads each of whose loss would raise the loss so much, give or take a little."""

    def ablation(*_: Any) -> tuple[np.ndarray, np.ndarray]:
        rises_WLH = rise + 1e-3 * normals(5, "rises", 0, 64 * len(made.heads)).reshape(64, 1, -1)
        return np.ones(64), rises_WLH

    monkeypatch.setattr(nanogpt.heads, "ablation", ablation)
    config = replace(CONFIG, n_layer=1, n_head=len(made.heads))
    return measure_heads(made, config, {}, TOKENS_N, TEXTS)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "speaker's initial"])
def test_a_head_is_called_by_what_it_looks_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [head] = report_of(Made(name), 0.1, monkeypatch).heads
    assert head.role == name
    assert head.scores[name].share.mean == pytest.approx(1, abs=1e-5)
    assert f"100 % of its attention goes to {meanings('character')[name]}, " in head.sentence
    assert "Without the head the loss rises by 0.100" in head.sentence
    # The example shows it at work.
    keys = counted(head.example.text, name, head.example.query)
    assert sum(head.example.weights[key] for key in keys) == pytest.approx(1, abs=0.01)


def test_a_habit_of_distance_is_no_excess(monkeypatch: pytest.MonkeyPatch) -> None:
    """The previous character often starts the word: in this text, and as often in any such text."""
    [head] = report_of(Made("previous character"), 0.1, monkeypatch).heads
    score = head.scores["start of the word"]
    assert score.share.mean > score.uniform + 0.2
    assert abs(score.excess.mean) < 0.05


def test_induction_must_hold_for_random_characters_too(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_of(Made(INDUCTION, "only in words"), 0.1, monkeypatch)
    real, apparent = report.heads
    assert real.scores[INDUCTION] == apparent.scores[INDUCTION]
    assert real.role == INDUCTION
    assert apparent.role != INDUCTION
    assert real.repeats.mean == pytest.approx(1, abs=1e-5)
    assert apparent.repeats.mean < report.repeats_uniform
    assert (
        "In random characters written twice induction gets 100 %, where chance would have 7 %. "
        in real.sentence
    )
    assert (
        "written twice induction gets 3 %, where chance would have 7 %: it is no induction. "
        in apparent.sentence
    )


@pytest.mark.parametrize(
    ("rise", "verdict"),
    [
        (0.003, "Without the head the loss rises"),
        (0.002, "Whether the model needs it is not sure"),
        (0.0, "The model hardly needs it"),
    ],
)
def test_a_head_that_may_not_be_missed_gets_no_role(
    rise: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [head] = report_of(Made("itself"), rise, monkeypatch).heads
    assert (head.role == "itself") == (rise == 0.003)
    assert verdict in head.sentence
    assert head.ablation.mean == pytest.approx(rise, abs=5e-4)


@pytest.mark.parametrize(
    ("changes", "length", "message"),
    [
        ({"n_layer": 0}, 400, "a model with n_layer 0 has no heads"),
        ({"block_size": 3}, 400, "at least 4"),
        ({}, 32, "33 tokens of text"),
    ],
)
def test_what_has_no_heads_to_measure_is_said_in_a_line(
    changes: dict[str, int], length: int, message: str
) -> None:
    config: Any = replace(CONFIG, **changes)
    with pytest.raises(nanogpt.InputError, match=message):
        measure_heads(Made("itself"), config, {}, TOKENS_N[:length], TEXTS)  # type: ignore[arg-type]


def test_a_short_text_is_cut_into_shorter_windows() -> None:
    state = TrainingState.initial(CONFIG, 4)
    backend = load_backend("torch")(CONFIG, None, state)
    report = measure_heads(backend, CONFIG, state.weights, TOKENS_N[:100], TEXTS)
    assert report.windows == 8
    assert "previous character" in report.heads[0].scores


def test_a_report_on_longer_tokens_speaks_of_tokens() -> None:
    state = TrainingState.initial(CONFIG, 4)
    backend = load_backend("torch")(CONFIG, None, state)
    report = measure_heads(backend, CONFIG, state.weights, TOKENS_N[:400], ["the", *TEXTS[1:]])
    assert "previous token" in report.heads[0].scores
    assert "character" not in json.dumps(asdict(report))


def test_a_run_notes_how_its_heads_form(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--backend=torch", "--n_layer=2"]
    assert train("whole", *flags) == 0
    file = tmp_path / "whole/heads.jsonl"
    records = read_lines(file)
    assert [record["step"] for record in records] == [0, 10, 20]
    for record in records:
        assert "previous character" in record["scores"].keys() == record["uniform"].keys()
        for name, shares_LH in record["scores"].items():
            assert np.shape(shares_LH) == (2, 2)
            assert 0 <= np.min(shares_LH) <= np.max(shares_LH) <= 1
            if record["step"] == 0:
                assert np.allclose(shares_LH, record["uniform"][name], atol=0.02)
    assert records[0]["scores"] != records[-1]["scores"]

    with monkeypatch.context() as patch:
        interrupt_after(3, patch)
        assert train("cut", *flags) > 128
    with (tmp_path / "cut/heads.jsonl").open("a") as lines:
        lines.write(json.dumps(records[-1]) + "\n")  # as a run leaves it that was killed at the end
    assert train("cut", *flags) == 0
    assert (tmp_path / "cut/heads.jsonl").read_text() == file.read_text()


def test_a_run_without_heads_notes_nothing_of_them(train: Train, tmp_path: Path) -> None:
    assert train("run", "--backend=torch", "--n_layer=0") == 0
    assert not (tmp_path / "run/heads.jsonl").exists()
