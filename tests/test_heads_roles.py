"""Roles and sentences: what a head must do, and how surely, to be named after a detector."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import nanogpt.heads.measure
from nanogpt.heads.detectors import INDUCTION, meanings, targets
from nanogpt.heads.measure import measure_heads
from nanogpt.heads.report import HeadReport
from nanogpt.randomness import normals
from tests.heads import CONFIG, NAMES, TEXTS, TOKENS_N, selected_keys


class DetectorHeads:
    """A backend with one layer of heads, each of which attends to a given detector's targets."""

    def __init__(self, *heads: str) -> None:
        self.heads = heads

    def attention(self, tokens_BT: np.ndarray) -> np.ndarray:
        B, T = tokens_BT.shape
        weights_BHTS = np.zeros((1, B, len(self.heads), T, T), np.float32)
        for row, tokens_T in enumerate(tokens_BT):
            targets_JTS = targets([TEXTS[token] for token in tokens_T])
            repeats = (tokens_T[: T // 2] == tokens_T[T // 2 :]).all()
            for number, head in enumerate(self.heads):
                # "only in words" does induction in the text and none on repeated random tokens.
                name = "itself" if head == "only in words" and repeats else head
                name = INDUCTION if name == "only in words" else name
                keys_TS = targets_JTS[NAMES.index(name)] + 1e-9 * np.tri(T)
                weights_BHTS[0, row, number] = keys_TS / keys_TS.sum(-1, keepdims=True)
        return weights_BHTS

    def losses(self, tokens_BT1: np.ndarray) -> np.ndarray:
        return np.ones((len(tokens_BT1), tokens_BT1.shape[1] - 1), np.float32)


def report_of(backend: DetectorHeads, rise: float, monkeypatch: pytest.MonkeyPatch) -> HeadReport:
    """The report on heads each of which raises the loss by about `rise` when it is ablated."""

    def ablate_heads(*_: Any) -> tuple[np.ndarray, np.ndarray]:
        increases_WLH = rise + 1e-3 * normals(5, "rises", 0, 64 * len(backend.heads)).reshape(64, 1, -1)
        return np.ones(64), increases_WLH

    monkeypatch.setattr(nanogpt.heads.measure, "ablate_heads", ablate_heads)
    config = replace(CONFIG, n_layer=1, n_head=len(backend.heads))
    return measure_heads(backend, config, {}, TOKENS_N, TEXTS)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "speaker's initial"])
def test_a_head_is_named_after_what_it_attends_to(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [head] = report_of(DetectorHeads(name), 0.1, monkeypatch).heads
    assert head.role == name
    assert head.scores[name].share.mean == pytest.approx(1, abs=1e-5)
    assert f"100 % of its attention goes to {meanings('character')[name]}; " in head.sentence
    assert "Without the head the loss rises by 0.100" in head.sentence
    keys = selected_keys(head.example.text, name, head.example.query)
    assert sum(head.example.weights[key] for key in keys) == pytest.approx(1, abs=0.01)


def test_a_preferred_distance_is_no_excess(monkeypatch: pytest.MonkeyPatch) -> None:
    """The previous character often starts the word, in this text as in any such text."""
    [head] = report_of(DetectorHeads("previous character"), 0.1, monkeypatch).heads
    score = head.scores["start of the word"]
    assert score.share.mean > score.uniform + 0.2
    assert abs(score.excess.mean) < 0.05


def test_induction_must_hold_for_random_characters_too(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_of(DetectorHeads(INDUCTION, "only in words"), 0.1, monkeypatch)
    real, apparent = report.heads
    assert real.scores[INDUCTION] == apparent.scores[INDUCTION]
    assert real.role == INDUCTION
    assert apparent.role != INDUCTION
    assert real.repeats.mean == pytest.approx(1, abs=1e-5)
    assert apparent.repeats.mean < report.repeats_uniform
    assert (
        "On random characters written twice, induction gets 100 % of its attention; "
        "by chance it would be 7 %. " in real.sentence
    )
    assert (
        "written twice, induction gets 3 % of its attention; "
        "by chance it would be 7 %, so this is not induction. " in apparent.sentence
    )


@pytest.mark.parametrize(
    ("rise", "verdict"),
    [
        (0.003, "Without the head the loss rises"),
        (0.002, "It is uncertain whether the model needs it"),
        (0.0, "The model hardly needs it"),
        (-0.002, "The model hardly needs it: without it the loss falls by 0.00"),
    ],
)
def test_a_head_that_the_loss_does_not_need_gets_no_role(
    rise: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [head] = report_of(DetectorHeads("itself"), rise, monkeypatch).heads
    assert (head.role == "itself") == (rise == 0.003)
    assert verdict in head.sentence
    assert "by -" not in head.sentence
    assert head.loss_increase.mean == pytest.approx(rise, abs=5e-4)


@pytest.mark.parametrize(
    ("changes", "length", "message"),
    [
        ({"n_layer": 0}, 400, "a model with n_layer 0 has no heads"),
        ({"block_size": 3}, 400, "at least 4"),
        ({}, 32, "33 tokens long"),
    ],
)
def test_a_model_or_text_that_cannot_be_measured_is_refused(
    changes: dict[str, int], length: int, message: str
) -> None:
    config: Any = replace(CONFIG, **changes)
    with pytest.raises(nanogpt.InputError, match=message):
        measure_heads(DetectorHeads("itself"), config, {}, TOKENS_N[:length], TEXTS)  # type: ignore[arg-type]
