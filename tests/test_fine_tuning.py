"""A new run begins with the model of another run, or of a GPT-2 folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import nanogpt
from nanogpt.cli.train import train_main
from nanogpt.huggingface import export_run
from nanogpt.language_model import read_checkpoint
from nanogpt.text.vocabulary import tokenizer_json
from nanogpt.training.metrics import evaluations, read_metrics
from tests.conftest import Finished, Train

OTHER_TEXT = "to the king the night sleeps, " * 60
FLAGS = ["--data=other.txt", "--batch_size=4", "--quiet"]


@pytest.fixture
def other_text(tmp_path: Path) -> Path:
    (tmp_path / "other.txt").write_text(OTHER_TEXT)
    return tmp_path / "other.txt"


@pytest.fixture(params=["run", "folder"])
def source(request: pytest.FixtureRequest, finished: Finished, tmp_path: Path) -> Path:
    """A trained model, as a run and as transformers keep it."""
    run = finished("torch")
    if request.param == "run":
        shutil.copytree(run, tmp_path / "run")
    else:
        export_run(run, tmp_path / "folder")
    return tmp_path / request.param


@pytest.mark.usefixtures("other_text")
@pytest.mark.parametrize("backend", [pytest.param("jax", marks=pytest.mark.long), "torch"])
def test_a_run_begins_with_the_model_of_another(
    backend: str, source: Path, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nanogpt.load(finished("torch"), backend)
    flags = [*FLAGS, f"--backend={backend}", "--out_dir=mine"]
    assert train_main([*flags, f"--init_from={source.name}", "--max_iters=30", "--eval_interval=10"]) == 0
    tuned = nanogpt.load("mine", backend)
    assert tuned.config == model.config
    assert tuned.tokenizer.vocabulary == model.tokenizer.vocabulary
    recipe = tuned.metadata.config.training
    assert (recipe.optimizer, recipe.min_lr) == ("adamw", recipe.learning_rate)
    tokens_N = model.tokenizer.encode(OTHER_TEXT)
    validation_N = tokens_N[int(0.9 * len(tokens_N)) :]
    first, *_, last = evaluations(read_metrics(tmp_path / "mine/metrics.jsonl"))
    assert first.step == 0
    assert first.val_loss == pytest.approx(model.loss(validation_N), abs=1e-5)
    assert last.val_loss < first.val_loss - 0.01
    # The run is one of its own: it needs the source no more, and goes on with or without the flag.
    shutil.rmtree(source)
    assert train_main(["--out_dir=mine", "--max_iters=31", "--quiet"]) == 0
    assert train_main([*flags, f"--init_from={source.name}", "--max_iters=32"]) == 0
    assert read_checkpoint(tmp_path / "mine")[0].step == 32
    capsys.readouterr()
    assert train_main([*flags, "--init_from=another", "--max_iters=33"]) == 2
    assert "init_from: " in capsys.readouterr().err


@pytest.mark.usefixtures("other_text")
def test_a_learnt_vocabulary_goes_over_to_the_new_run(train: Train, tmp_path: Path) -> None:
    assert train("old", "--backend=torch", "--tokenizer=bpe:270", "--max_iters=2") == 0
    flags = [*FLAGS, "--backend=torch", "--init_from=old", "--max_iters=2"]
    assert train_main([*flags, "--out_dir=new"]) == 0
    jsons = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("old", "new")]
    assert jsons[0] == jsons[1]
    assert nanogpt.load("new").config.vocab_size == 270
    # Begun anew, it begins with the source once more.
    before = read_checkpoint(tmp_path / "new")[0]
    assert train_main([*flags, "--out_dir=new", "--resume=never"]) == 0
    after = read_checkpoint(tmp_path / "new")[0]
    assert all(np.array_equal(before.weights[name], after.weights[name]) for name in before.weights)


@pytest.mark.usefixtures("other_text")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--init_from=gpt2-xl"],
            "gpt2-xl: put config.json, model.safetensors and tokenizer.json of Hugging Face's "
            "openai-community/gpt2-xl there, and start again; --preset gpt2-xl trains one from nothing",
        ),
        (
            ["--init_from=gpt2-tiny"],
            "gpt2-tiny: take a run, or a GPT-2 folder of transformers; --preset gpt2-tiny trains one from",
        ),
        (["--init_from=nowhere"], "nowhere: take a run, or a GPT-2 folder of transformers\n"),
        (["--init_from=empty"], "empty holds no config.json"),
        (["--init_from=run", "--n_layer=3"], "run is another model: n_layer: 1 -> 3"),
        (["--init_from=run", "--tokenizer=bytes"], "--tokenizer bytes: --init_from brings its own"),
        (["--init_from=run", "--data=strange.txt"], "character 'q' at position 0 is not in the model's"),
        (["--init_from=damaged"], "damaged"),
        (["--init_from=resume"], "--out_dir names a run, which goes on by itself"),
        (["--init_from=scratch"], "a new run begins so without --init_from"),
    ],
)
def test_a_model_that_can_not_be_begun_with_leaves_nothing_behind(
    flags: list[str],
    message: str,
    finished: Finished,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "strange.txt").write_text("qqq" * 500)
    for name in ("run", "damaged"):
        shutil.copytree(finished("torch"), tmp_path / name)
    for file in (tmp_path / "damaged/checkpoints").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert train_main([*FLAGS, "--backend=torch", "--out_dir=mine", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "mine").exists()


def test_a_source_whose_tokenizer_was_exchanged_is_refused(
    train: Train, other_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("old", "--backend=torch", "--tokenizer=bpe:270", "--max_iters=2") == 0
    (tmp_path / "old/tokenizer.json").write_bytes(tokenizer_json("bytes", []) or b"")
    assert train_main([*FLAGS, "--backend=torch", "--init_from=old", "--out_dir=mine"]) == 2
    assert "is not the one that this model was trained with" in capsys.readouterr().err
