"""Prepared tokens are trained on as tokens in memory are, and nothing else is taken for them."""

import gzip
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanogpt
from nanogpt.cli.prepare import prepare_main
from nanogpt.cli.train import train_main
from nanogpt.errors import InputError
from nanogpt.language_model import read_checkpoint
from nanogpt.page.contents import validation_tokens
from nanogpt.text import corpus, prepare, shards
from nanogpt.text.corpus import Corpus, Splits, load_corpus, load_data
from nanogpt.text.shards import PreparedCorpus, Shards
from nanogpt.text.tokenizer import Tokenizer
from nanogpt.text.vocabulary import tokenizer_json
from tests.conftest import Train, assert_same_weights


@given(
    sizes=st.lists(st.integers(0, 20), max_size=8),
    bounds=st.tuples(*[st.none() | st.integers(-200, 200)] * 2, st.none() | st.integers(1, 5)),
    picks=st.lists(st.integers(0, 10**6), max_size=30),
)
def test_shards_are_read_as_one_array(
    sizes: list[int], bounds: tuple[int | None, int | None, int | None], picks: list[int]
) -> None:
    whole = np.arange(sum(sizes), dtype=np.uint16)
    parts = Shards(np.split(whole, np.cumsum(sizes)[:-1]) if sizes else [])
    assert len(parts) == len(whole)
    assert parts[slice(*bounds)].tolist() == whole[slice(*bounds)].tolist()
    assert parts[:].dtype == np.int32
    if len(whole):
        positions = np.array(picks, np.int64).reshape(-1, 1) % len(whole)
        np.testing.assert_array_equal(parts[positions], whole[positions])


@pytest.fixture
def prepared(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Prepare the text of the tests with a tokenizer, in shards of 300 tokens."""
    monkeypatch.setattr(prepare, "SHARD", 300)

    def run(tokenizer: str) -> Path:
        folder = tmp_path / f"tokens-{Path(tokenizer).stem.replace(':', '-')}"
        assert prepare_main([str(text_file), f"--tokenizer={tokenizer}", f"--out={folder}"]) == 0
        return folder

    return run


def of_folder(folder: Path, name: str = "char") -> tuple[PreparedCorpus, Tokenizer]:
    found = load_data(str(folder))
    assert isinstance(found, PreparedCorpus)
    return found, found.new_tokenizer(name, folder).tokenizer


@pytest.mark.parametrize("tokenizer", ["char", "bytes", "bpe:300"])
def test_batches_are_those_of_the_same_tokens_in_memory(
    tokenizer: str, prepared: Callable[[str], Path], text_file: Path
) -> None:
    folder = prepared(tokenizer)
    assert len(list(folder.glob("train-*.bin"))) > 2
    mapped = Splits.of(*of_folder(folder), block_size=16)
    parts = [
        np.concatenate([np.fromfile(file, "<u2") for file in sorted(folder.glob(f"{split}-*.bin"))])
        for split in ("train", "validation")
    ]
    in_memory = Splits(*(part.astype(np.int32) for part in parts), 16)
    for step in range(20):
        batch = mapped.batch(7, step, 8)
        assert batch.dtype == np.int32
        np.testing.assert_array_equal(batch, in_memory.batch(7, step, 8))
    np.testing.assert_array_equal(mapped.validation_tokens(), in_memory.validation_tokens())
    np.testing.assert_array_equal(mapped.training_sample(), in_memory.training_sample())
    if tokenizer != "bpe:300":
        text = load_corpus(str(text_file))
        before = Splits.of(text, text.new_tokenizer(tokenizer, folder).tokenizer, 16)
        assert parts[0][:-1].tolist() == before.train_N.tolist()  # behind both is a line end
        assert parts[1][:-1].tolist() == before.validation_N.tolist()


@pytest.mark.parametrize("backend", [pytest.param("jax", marks=pytest.mark.long), "torch"])
def test_a_run_on_prepared_tokens_goes_on_exactly(
    backend: str,
    prepared: Callable[[str], Path],
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = prepared("bpe:280")
    rate = ["--learning_rate=1e-3", "--min_lr=1e-3", "--warmup_iters=0", f"--backend={backend}"]
    assert train("run", *rate, f"--data={folder}", "--max_iters=10") == 0
    told = capsys.readouterr().out
    assert f"on {folder} (6,547 characters, 1 document)" in told
    assert "tokens of a vocabulary of 280: a loss of 1 is 0." in told
    assert (tmp_path / "run/tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "run/config.json").read_text())["run"]["tokenizer"] == "bpe:280"
    # The folder may move in between.
    moved = folder.rename(tmp_path / "moved")
    assert train_main(["--out_dir=run", f"--data={moved}", "--max_iters=20"]) == 0
    assert train("whole", *rate, f"--data={moved}") == 0
    states = [read_checkpoint(tmp_path / name)[0] for name in ("run", "whole")]
    assert states[0].step == 20
    assert_same_weights(states[0].weights, states[1].weights)
    assert nanogpt.load("run", backend).generate("the", max_tokens=3).startswith("the")
    # Without the flag it goes on with the same tokens, and other tokens are another text.
    assert train_main(["--out_dir=run", "--max_iters=21"]) == 0
    assert train("run", "--max_iters=22", "--tokenizer=bpe:280", f"--data={prepared('bytes')}") == 2
    assert "this is not the run in that folder: data sha256: " in capsys.readouterr().err


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def rewrite(file: Path, **changes: object) -> None:
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | changes))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte": (
        lambda folder: flip(folder / "train-00003.bin"),
        "train-00003.bin is not as it was written",
    ),
    "a cut shard": (
        lambda folder: (folder / "validation-00000.bin").write_bytes(b"ab"),
        "validation-00000.bin is not as it was written",
    ),
    "a lost shard": (
        lambda folder: (folder / "train-00000.bin").unlink(),
        "train-00000.bin can't be read: No such",
    ),
    "another tokenizer.json": (
        lambda folder: (folder / "tokenizer.json").write_bytes(tokenizer_json("bytes", []) or b""),
        "tokenizer.json is not the tokenizer that the text was prepared with",
    ),
    "no tokenizer.json": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "tokenizer.json can't be read: No such",
    ),
    "a changed manifest": (
        lambda folder: rewrite(folder / "manifest.json", dtype="uint32"),
        "manifest.json is not as it was written",
    ),
    "another format": (
        lambda folder: rewrite(folder / "manifest.json", format=2),
        "manifest.json has format 2",
    ),
    "a cut manifest": (
        lambda folder: (folder / "manifest.json").write_text("{"),
        "manifest.json can't be read",
    ),
    "a list": (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json can't be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_gets_one_line(
    damage: str,
    prepared: Callable[[str], Path],
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = prepared("bpe:280")
    change, message = DAMAGES[damage]
    change(folder)
    capsys.readouterr()
    assert train("run", f"--data={folder}", "--backend=torch") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_another_tokenizer_is_refused(
    prepared: Callable[[str], Path], train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prepared("bpe:280")
    assert train("run", f"--data={folder}", "--tokenizer=bpe:281", "--backend=torch") == 2
    assert f"--tokenizer bpe:281: {folder} was prepared with bpe:280" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    # The default of a preset is no wish.
    flags = ["--preset=gpt2-tiny", "--dtype=float32", "--max_iters=2", "--backend=torch"]
    assert train("preset", *flags, f"--data={folder}") == 0
    assert nanogpt.load("preset", "torch").config.vocab_size == 280
    # Refused is a model that comes with its own, until the text is prepared with that one.
    assert train("old", "--tokenizer=bpe:270", "--backend=torch", "--max_iters=2") == 0
    flags = ["--init_from=old", "--max_iters=2", "--preset=finetune", "--backend=torch", "--out_dir=new"]
    capsys.readouterr()
    assert train_main([*flags, f"--data={folder}"]) == 2
    assert "prepare the text with --tokenizer and the model's tokenizer.json" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert train_main([*flags, f"--data={prepared('old/tokenizer.json')}"]) == 0


def test_a_text_of_no_window_is_refused(
    tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("the king sleeps")
    assert prepare_main(["short.txt", "--out=tokens"]) == 0
    assert train("run", "--data=tokens") == 2
    assert "split of " in (error := capsys.readouterr().err)
    assert "take a longer text or a smaller --block_size" in error


@pytest.mark.parametrize("name", ["big.txt", "a.txt.gz", "folder"])
def test_a_text_for_which_memory_is_no_place_gets_the_command_that_prepares_it(
    name: str,
    text_file: Path,
    tmp_path: Path,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = text_file.read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/rows.jsonl").write_text(json.dumps({"text": content.decode()}))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content))
    (tmp_path / "big.txt").write_bytes(content)
    if name == "big.txt":
        monkeypatch.setattr(corpus, "machine_memory", lambda: 32 * len(content))
        assert isinstance(load_data("big.txt"), Corpus)
        monkeypatch.setattr(corpus, "machine_memory", lambda: 32 * len(content) - 1)
    assert train("run", f"--data={name}", "--tokenizer=bpe:280", "--backend=torch") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    words = shlex.split(error.partition("`")[2].partition("`")[0])
    assert words[:2] == ["nanogpt", "prepare"]
    assert prepare_main(words[2:]) == 0
    folder = shlex.split(error.partition("train with --data ")[2])[0]
    assert train("run", f"--data={folder}", "--backend=torch", "--max_iters=2") == 0


def test_the_page_shows_the_validation_text_of_a_prepared_run(
    prepared: Callable[[str], Path], train: Train, tmp_path: Path
) -> None:
    folder = prepared("char")
    assert train("run", f"--data={folder}", "--backend=torch", "--max_iters=2") == 0
    model = nanogpt.load("run", "torch")
    first_N = np.fromfile(folder / "validation-00000.bin", "<u2")
    np.testing.assert_array_equal(validation_tokens(model)[: len(first_N)], first_N)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="there is no file or folder"):
        validation_tokens(model)


def test_the_documented_files_are_those_of_a_folder(prepared: Callable[[str], Path]) -> None:
    named = set(shards.__doc__.split()) if shards.__doc__ else set()
    for file in prepared("bpe:280").iterdir():
        assert file.name in named or file.stem[:-5] in ("train-", "validation-"), file
