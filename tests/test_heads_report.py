"""The report on the heads of a model: its contents, both backends alike, and short texts."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nanogpt
from nanogpt.choice import load_backend
from nanogpt.heads.measure import measure_heads
from nanogpt.heads.report import HeadReport
from nanogpt.state import TrainingState
from tests.conftest import BACKENDS
from tests.heads import CONFIG, NAMES, TEXTS, TOKENS_N


@pytest.fixture(scope="module")
def reports(finished_run: Path, text_file: Path) -> dict[str, HeadReport]:
    """Reports on a trained model, by backend."""
    return {backend: measured(finished_run, text_file, backend) for backend in BACKENDS}


def measured(run: Path, text_file: Path, backend: str) -> HeadReport:
    model = nanogpt.load(run, backend=backend)
    state, _ = nanogpt.language_model.read_checkpoint(run)
    tokens_N = model.tokenizer.encode(text_file.read_text(encoding="utf-8"))[-1500:]
    texts = list(model.tokenizer.vocabulary or "")
    return measure_heads(model.backend, model.config, state.weights, tokens_N, texts, windows=16)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_report_is_complete_and_fits_json(
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


def test_a_model_that_has_learned_nothing_gets_no_role() -> None:
    state = TrainingState.initial(CONFIG, 4)
    backend = load_backend("torch")(CONFIG, None, state)
    report = measure_heads(backend, CONFIG, state.weights, TOKENS_N, TEXTS)
    assert [head.role for head in report.heads] == [None] * 4
    assert all("No role fits it" in head.sentence for head in report.heads)


def test_uniform_attention_has_no_excess() -> None:
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


def test_a_short_text_is_cut_into_shorter_windows() -> None:
    state = TrainingState.initial(CONFIG, 4)
    backend = load_backend("torch")(CONFIG, None, state)
    report = measure_heads(backend, CONFIG, state.weights, TOKENS_N[:100], TEXTS)
    assert report.windows == 8
    assert "previous character" in report.heads[0].scores


def test_a_report_on_longer_tokens_calls_them_tokens() -> None:
    state = TrainingState.initial(CONFIG, 4)
    backend = load_backend("torch")(CONFIG, None, state)
    report = measure_heads(backend, CONFIG, state.weights, TOKENS_N[:400], ["the", *TEXTS[1:]])
    assert "previous token" in report.heads[0].scores
    assert "character" not in json.dumps(asdict(report))
