"""The figures of the page: those of the model, and of the difference of two models."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

import nanogpt
from nanogpt.page.contents import contents
from nanogpt.page.figures import Reading, coded, decoded, decoded_difference
from nanogpt.text.tokenizer import FileTokenizer
from tests.conftest import Train
from tests.page import default_model, figures_of, unpacked, visualize


def test_the_page_shows_what_the_model_computes(finished_run: Path) -> None:
    text = "the king speaks"
    assert visualize(finished_run, f"--text={text}") == 0
    figures, model = figures_of("attention.html"), nanogpt.load(finished_run, backend="torch")
    tokens_BT = model.tokenizer.encode(text)[None]
    weights_LHTS = model.attention(tokens_BT)[:, 0]
    shown_LHTS = decoded(unpacked(figures, figures["attention"]))
    assert np.abs(shown_LHTS - weights_LHTS).max() == pytest.approx(figures["error"], rel=1e-4)
    assert 0 < figures["error"] < 0.004

    logits_TV = model.logits(tokens_BT)[0].astype(np.float64)
    probabilities_TV = np.exp(logits_TV) / np.exp(logits_TV).sum(1, keepdims=True)
    losses = model.backend.losses(tokens_BT)[0]
    np.testing.assert_allclose(figures["losses"], losses, rtol=1e-4)
    for likeliest, probabilities_V in zip(figures["likeliest"], probabilities_TV, strict=True):
        best = np.argsort(-probabilities_V)[:5]
        assert "".join(piece for piece, _ in likeliest) == model.tokenizer.decode(best)
        np.testing.assert_allclose([share for _, share in likeliest], probabilities_V[best], rtol=1e-4)


def test_the_page_says_which_backend_trained_and_which_one_reads(finished_run: Path) -> None:
    assert visualize(finished_run, "--text=the king", "--backend=jax") == 0
    assert "step 20 · last trained with torch · read with jax · " in figures_of("attention.html")["facts"]


def test_a_long_text_is_read_to_its_end(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert visualize(finished_run, "--text=the king speaks to ROMEO:") == 0
    figures = figures_of("attention.html")
    assert "".join(figures["pieces"]) == "speaks to ROMEO:"
    notice = "The model reads 16 tokens at most: the text shows the last of 25."
    assert notice in capsys.readouterr().err
    assert figures["notice"] == notice


@pytest.mark.parametrize("other", ["jax", "10", "best", "folder"])
def test_a_comparison_shows_the_difference_of_two_models(
    other: str, finished_run: Path, train: Train
) -> None:
    run, backend, checkpoint = finished_run, "torch", "latest"
    if other == "folder":
        assert train("other", "--backend=torch", "--seed=5", "--quiet") == 0
        other, run = "other", Path("other")
    elif other == "jax":
        backend = "jax"
    else:
        checkpoint = other
    assert visualize(finished_run, "--text=the king speaks", f"--compare={other}") == 0
    figures = figures_of("attention.html")
    mine = nanogpt.load(finished_run, backend="torch")
    theirs = nanogpt.load(run, backend=backend, checkpoint=checkpoint)
    tokens_BT = mine.tokenizer.encode("the king speaks")[None]
    difference_LHTS = mine.attention(tokens_BT)[:, 0] - theirs.attention(tokens_BT)[:, 0]
    compared = figures["comparison"]
    np.testing.assert_allclose(compared["largest"], np.abs(difference_LHTS).max((2, 3)), rtol=1e-4)
    codes = unpacked(figures, compared["difference"])
    shown_LHTS = np.tril(decoded_difference(codes) * compared["scale"])
    # The page rounds its scale to five digits, which adds an error of its own.
    rounding = 5e-5 * compared["scale"]
    assert np.abs(shown_LHTS - difference_LHTS).max() <= compared["error"] * 1.001 + rounding
    # A byte is a step of 1/127 in the root, so rounding by half a step moves the square by 1/127 at most.
    assert compared["error"] <= compared["scale"] / 127
    assert (
        compared["names"]
        == {
            "jax": ["torch", "jax"],
            "10": ["step 20", "step 10"],
            "best": [f"{finished_run}, step 20, torch"] * 2,
            "other": [str(finished_run), "other"],
        }[other]
    )


def test_how_heads_formed_is_shown_up_to_the_checkpoint(train: Train, tmp_path: Path) -> None:
    assert train("run", "--backend=torch", "--quiet") == 0
    records = [
        {"step": step, "scores": {"induction": [[step / 40, 0.5]]}, "uniform": {"induction": 0.25}}
        for step in (0, 10, 20, 30)
    ]
    (tmp_path / "run/heads.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert visualize(Path("run"), "--checkpoint=10") == 0
    excess = {"induction": [[[-0.25, 0.25]], [[0.0, 0.25]]]}
    assert figures_of("attention.html")["formation"] == {"steps": [0, 10], "excess": excess}


def test_pieces_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(["the king speaks "] * 9, trainers.BpeTrainer(vocab_size=40, show_progress=False))
    bpe.save(str(tmp_path / "tokenizer.json"))
    model = default_model()
    model.tokenizer = FileTokenizer(tmp_path / "tokenizer.json")
    figures = contents(
        Path("run"), model, text="the king", compare=None, live=False, report=True, device="cpu", tell=print
    )
    assert figures["pieces"] == ["the", " king"]
    assert figures["unit"] == "token"


def test_codes_keep_small_weights_apart() -> None:
    weights = np.array([0, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1], np.float32)
    assert (np.diff(coded(weights).astype(int)) > 0).all()
    assert np.abs(decoded(coded(weights)) - weights).max() < 0.004


def test_the_reading_of_one_token_has_no_loss(finished_run: Path) -> None:
    model = nanogpt.load(finished_run, backend="torch")
    figures = Reading(finished_run, model, model.tokenizer.encode("t")).figures()
    assert figures["losses"] == []
    assert len(figures["likeliest"]) == 1
    assert base64.b64decode(figures["attention"]) == b"\xff\xff"  # of two heads
