"""Bad input to the page: one line says what is wrong, and no page is written."""

import shutil
from pathlib import Path

import pytest

import nanogpt
from nanogpt.page.contents import contents
from nanogpt.text.tokenizer import NoTokenizer
from tests.conftest import Train
from tests.page import default_model, figures_of, visualize


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text="], "the text is empty"),
        (["--text=the kinG"], "character 'G' at position 7 is not in the model's vocabulary"),
        (["--text=the \ud800"], r"character '\ud800' at position 4"),
        (["--text=@nowhere"], "there is no file or folder nowhere"),
        (["--out_dir=nowhere"], "nowhere holds no run"),
        (["--checkpoint=15"], "there is no checkpoint '15' in"),
        (["--compare=15"], "there is no checkpoint '15' in"),
        (["--compare=nonsense"], "--compare 'nonsense' is neither a backend (jax, torch) nor the folder"),
        (["--compare=."], ". holds no run"),
        (["--html=nowhere/page.html"], "--html nowhere/page.html must be a file in a folder that is there"),
        (["--html=."], "--html . must be a file in a folder that is there"),
    ],
)
def test_bad_input_gets_one_line_and_no_page(
    flags: list[str], message: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "attention.html").write_text("an older page")
    assert visualize(finished_run, *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in error
    assert [file.name for file in tmp_path.iterdir()] == ["attention.html"]
    assert (tmp_path / "attention.html").read_text() == "an older page"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n_layer=2"], "n_layer is 1 in the first and 2 in the second"),
        (["--n_head=4"], "n_head is 2 in the first and 4 in the second"),
        (["--block_size=8"], "the text has 15 tokens, and the second model reads at most 8"),
        (["--data=other.txt"], "vocab_size is "),
        (["--data=same.txt"], "their vocabularies differ"),
    ],
)
def test_models_that_do_not_fit_are_not_compared(
    flags: list[str],
    message: str,
    finished_run: Path,
    text_file: Path,
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "other.txt").write_text("abc\n" * 500)
    (tmp_path / "same.txt").write_text(text_file.read_text().replace("k", "j"))
    assert train("other", "--backend=torch", "--quiet", "--max_iters=1", *flags) == 0
    assert visualize(finished_run, "--text=the king speaks", "--compare=other") == 2
    error = capsys.readouterr().err
    assert "can't be compared" in error
    assert message in error


@pytest.mark.parametrize("loss", ["gone", "changed"])
def test_without_the_runs_data_heads_are_not_measured(
    loss: str, train: Train, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shutil.copy(text_file, tmp_path / "mine.txt")
    assert train("run", "--backend=torch", "--quiet", f"--data={text}") == 0
    if loss == "gone":
        text.unlink()
        reason = f"there is no file or folder {text}"
    else:
        text.write_text(text_file.read_text() + "!")
        reason = "is no longer the text that this model was trained on"
    assert visualize(Path("run")) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert "give a --text" in error
    assert visualize(Path("run"), "--text=the king") == 0
    figures = figures_of("attention.html")
    assert figures["report"] is None
    assert figures["notice"].startswith("The heads are not measured: ")
    assert reason in figures["notice"]


def test_a_model_without_a_tokenizer_is_refused() -> None:
    model = default_model()
    model.tokenizer = NoTokenizer()
    with pytest.raises(nanogpt.InputError, match=r"without a tokenizer\.json"):
        contents(
            Path("run"), model, text="the", compare=None, live=False, report=True, device="cpu", tell=print
        )
