"""An imported model uses the tokenizer in its folder, and without one takes token ids alone."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import nanogpt.training.evaluation
from nanogpt.cli.sample import sample_main
from nanogpt.cli.train import train_main
from nanogpt.errors import InputError
from nanogpt.huggingface import export_run, import_folder
from nanogpt.language_model import read_checkpoint
from nanogpt.text.tokenizer import decode_stream
from tests.huggingface_helpers import TEXT, AutoTokenizer, change_config, put

pytest_plugins = ["tests.huggingface_fixtures"]


@pytest.mark.parametrize("backend", [pytest.param("jax", marks=pytest.mark.long), "torch"])
def test_an_imported_tokenizer_reads_writes_and_trains(
    backend: str,
    gpt2_folder: Path,
    mixed_text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nanogpt.training.evaluation, "SAMPLE_TOKENS", 5)
    import_folder(gpt2_folder, tmp_path / "run")
    ours, theirs = nanogpt.load("run", backend=backend).tokenizer, AutoTokenizer.from_pretrained(gpt2_folder)
    strange = TEXT[:50] + "<|endoftext|> \u00e9\u0301 \u65e5"
    assert ours.encode(strange).dtype == np.int32
    assert ours.encode(strange).tolist() == theirs(strange, split_special_tokens=True)["input_ids"]
    for tokens in (ours.encode(strange), theirs(strange)["input_ids"]):
        assert ours.decode(np.array(tokens)) == strange == theirs.decode(tokens)
    # A character spread over tokens comes whole.
    tokens_T = ours.encode(strange)
    pieces = list(decode_stream(ours, tokens_T[:2], tokens_T[2:, None]))
    assert ours.decode(tokens_T[:2]) + "".join(pieces) == strange
    assert len(pieces) == len(tokens_T) - 2
    assert "\ufffd" not in "".join(pieces)

    assert sample_main(["--out_dir=run", f"--backend={backend}", "--prompt=The king", "--max_tokens=40"]) == 0
    assert capsys.readouterr().out.startswith("The king")
    flags = ["--batch_size=2", "--max_iters=2", "--eval_interval=2", "--warmup_iters=0"]
    assert train_main(["--out_dir=run", f"--backend={backend}", f"--data={mixed_text}", *flags]) == 0
    out = capsys.readouterr().out
    assert "Going on with" in out
    assert "    | " in out
    _, metadata = read_checkpoint(tmp_path / "run")
    assert metadata.step == 2
    assert metadata.data["characters"] == len(TEXT)
    # It goes on like any run, on its own text alone, and may be exported again.
    assert train_main(["--out_dir=run", "--max_iters=3", "--quiet"]) == 0
    (tmp_path / "other.txt").write_text(TEXT[1:])
    assert train_main(["--out_dir=run", "--data=other.txt", "--max_iters=4"]) == 2
    assert "data sha256" in capsys.readouterr().err
    export_run("run", "again")
    assert AutoTokenizer.from_pretrained("again")(strange)["input_ids"] == theirs(strange)["input_ids"]


def test_an_imported_character_model_trains_on_a_text_of_its_characters(
    finished_run: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_run(finished_run, tmp_path / "folder")
    import_folder(tmp_path / "folder", tmp_path / "run")
    flags = ["--out_dir=run", "--backend=torch", "--max_iters=1", "--batch_size=2", "--quiet"]
    (tmp_path / "less.txt").write_text("the king sleeps to the night, " * 20)
    (tmp_path / "more.txt").write_text("the queen " * 60)
    assert train_main([*flags, "--data=more.txt"]) == 2
    assert "character 'q' at position 4 is not in the model's vocabulary" in capsys.readouterr().err
    assert train_main([*flags, "--data=less.txt"]) == 0
    vocabularies = [read_checkpoint(folder)[1].vocabulary for folder in (finished_run, tmp_path / "run")]
    assert vocabularies[0] == vocabularies[1]


def test_a_model_without_a_tokenizer_takes_token_ids_alone(
    gpt2_folder: Path, mixed_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(gpt2_folder, tmp_path / "folder", ignore=shutil.ignore_patterns("tokenizer*"))
    import_folder(tmp_path / "folder", tmp_path / "run")
    assert "only token ids can be used" in capsys.readouterr().err
    model = nanogpt.load("run", backend="torch")
    tokens_T = np.arange(20)
    assert model.logits(tokens_T[None]).shape == (1, 20, 320)
    assert model.attention(tokens_T[None]).shape == (2, 1, 2, 20, 20)
    assert model.loss(tokens_T) > 0
    with pytest.raises(InputError, match="came without a tokenizer"):
        model.generate("The king")
    assert sample_main(["--out_dir=run", "--backend=torch"]) == 2
    assert train_main(["--out_dir=run", "--backend=torch", f"--data={mixed_text}", "--quiet"]) == 2
    assert capsys.readouterr().err.count("came without a tokenizer") == 2
    export_run("run", "again")
    files = ["config.json", "generation_config.json", "model.safetensors"]
    assert sorted(path.name for path in Path("again").iterdir()) == files


def test_a_missing_library_is_named(
    gpt2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"install tokenizers: pip install .*\[huggingface\]"):
        import_folder(gpt2_folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(gpt2_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(gpt2_folder, tmp_path / "folder")
    put("transformer.wte.weight", np.zeros((279, 16), np.float32))(tmp_path / "folder")
    change_config(tmp_path / "folder", vocab_size=279)
    with pytest.raises(InputError, match=r"tokenizer.json has 280 tokens, but the model has 279"):
        import_folder(tmp_path / "folder", tmp_path / "run")
