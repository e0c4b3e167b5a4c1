"""Special tokens are kept from folder to folder; the end token ends a text, and no text holds it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanogpt
from nanogpt.cli.train import train_main
from nanogpt.errors import InputError
from nanogpt.huggingface import export_run, import_folder
from nanogpt.sampling import TOKENS_PER_BLOCK
from nanogpt.text.stop import before_end
from tests.conftest import BACKENDS, Train
from tests.huggingface_helpers import AutoTokenizer, GenerationConfig, GPT2Config, cut

pytest_plugins = ["tests.huggingface_fixtures"]

ROLES = ("bos", "eos", "pad")


@pytest.fixture
def folder(gpt2_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(gpt2_folder, tmp_path / "folder"))


def change(folder: Path, name: str, **values: Any) -> None:
    """Change a file of settings; `...` removes a value."""
    settings = json.loads((folder / name).read_text()) | values
    (folder / name).write_text(
        json.dumps({key: value for key, value in settings.items() if value is not ...})
    )


def special_tokens(folder: Path) -> dict[str, Any]:
    """The special tokens of a folder as transformers reads them from its files."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    places = {"model": GPT2Config.from_pretrained(folder), "text": GenerationConfig.from_pretrained(folder)}
    ids = {(name, role): getattr(at, f"{role}_token_id") for name, at in places.items() for role in ROLES}
    return ids | {("tokenizer", role): getattr(tokenizer, f"{role}_token") for role in ROLES}


@given(st.lists(st.lists(st.integers(0, 9), max_size=5)), st.integers(0, 9) | st.lists(st.integers(0, 9)))
def test_the_tokens_end_before_the_first_end_token(blocks: list[list[int]], ends: int | list[int]) -> None:
    taken = []

    def arrays() -> Iterator[np.ndarray]:
        for block in blocks:
            taken.extend(block)
            yield np.array(block, np.int32)

    told = [token for block in before_end(arrays(), ends) for token in block]
    tokens = [token for block in blocks for token in block]
    among = ends if isinstance(ends, list) else [ends]
    places = [place for place, token in enumerate(tokens) if token in among]
    assert told == tokens[: places[0] if places else None]
    assert len(taken) <= len(told) + 5  # no block after the end


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("several", [False, True])
def test_the_end_token_ends_a_text(
    several: bool, backend: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_folder(folder, tmp_path / "endless")
    model = nanogpt.load("endless", backend)
    generate, blocks = model.backend.generate, []

    def recorded(*arguments: Any) -> Iterator[np.ndarray]:
        for tokens_BN in generate(*arguments):
            blocks.append(tokens_BN[0])
            yield tokens_BN

    monkeypatch.setattr(model.backend, "generate", recorded)
    model.generate("The king", max_tokens=200)
    tokens_N = np.concatenate(blocks)
    end = int(tokens_N[TOKENS_PER_BLOCK + 3])
    first = tokens_N.tolist().index(end)
    ends = [319, end] if several else end
    change(folder, "generation_config.json", eos_token_id=ends)
    import_folder(folder, tmp_path / "run")
    ending = nanogpt.load("run", backend)
    assert ending.tokenizer.special_tokens["eos_token_id"] == ends
    told = model.tokenizer.decode(tokens_N[:first])
    assert ending.generate("The king", max_tokens=200) == f"The king{told}"


@pytest.mark.parametrize("by_training", [False, True])
def test_special_tokens_come_back_from_import_and_export(
    by_training: bool, folder: Path, mixed_text: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"bos_token": "<|bos|>", "pad_token": "<|pad|>"})
    tokenizer.save_pretrained(folder)
    ids = {"bos_token_id": 280, "eos_token_id": [0, 7], "pad_token_id": 281}
    for name in ("config.json", "generation_config.json"):
        change(folder, name, **ids)
    if by_training:
        flags = [f"--data={mixed_text}", "--backend=torch", "--batch_size=2", "--quiet"]
        assert train_main([f"--init_from={folder}", "--out_dir=run", *flags, "--max_iters=1"]) == 0
        assert train_main(["--out_dir=run", "--max_iters=2", "--quiet"]) == 0  # and goes on
    else:
        import_folder(folder, tmp_path / "run")
    export_run("run", "again")
    before, after = special_tokens(folder), special_tokens(tmp_path / "again")
    assert before == after
    assert after["text", "eos"] == [0, 7]
    assert after["tokenizer", "pad"] == "<|pad|>"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"bos_token_id": 0, "eos_token_id": 0}),
        ({"generation_config.json": {"eos_token_id": [3]}}, {"bos_token_id": 0, "eos_token_id": 3}),
        ({"generation_config.json": ...}, {"bos_token_id": 0, "eos_token_id": 0}),
        # transformers takes 50256 for a missing one, which this vocabulary has not.
        ({"config.json": {"bos_token_id": ...}, "generation_config.json": ...}, {"eos_token_id": 0}),
        ({"generation_config.json": {"eos_token_id": 320, "bos_token_id": -1}}, {}),
        ({"generation_config.json": {"eos_token_id": [5, 320]}}, {"bos_token_id": 0, "eos_token_id": 5}),
        (
            {"tokenizer_config.json": {"pad_token": {"content": "<|endoftext|>"}}},
            {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
        ),
        ({"tokenizer_config.json": {"pad_token": "<|none|>"}}, {"bos_token_id": 0, "eos_token_id": 0}),
    ],
)
def test_the_file_that_names_a_special_token_counts(
    changes: dict[str, Any], expected: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    for name, values in changes.items():
        (folder / name).unlink() if values is ... else change(folder, name, **values)
    import_folder(folder, tmp_path / "run")
    assert nanogpt.load("run", "torch").tokenizer.special_tokens == expected


@pytest.mark.parametrize("value", ["</s>", 1.0, True, [0, "a"], {}])
def test_an_id_that_is_no_number_is_refused(value: Any, folder: Path, tmp_path: Path) -> None:
    change(folder, "generation_config.json", eos_token_id=value)
    with pytest.raises(InputError, match=r"eos_token_id is .*, but must be a whole number"):
        import_folder(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_a_damaged_file_is_named(name: str, folder: Path, tmp_path: Path) -> None:
    cut(folder, name)
    with pytest.raises(InputError, match=f"{name} can't be read: "):
        import_folder(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_learnt_vocabulary_keeps_its_end_token(train: Train, tmp_path: Path) -> None:
    """In its run, with the other backend, in a run that begins with it, and in transformers."""
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    assert train("run", "--backend=torch", "--tokenizer=bpe:270", "--max_iters=2") == 0
    assert train("run", "--backend=jax", "--max_iters=3") == 0
    assert train("tuned", "--backend=torch", "--init_from=run", "--max_iters=1") == 0
    for run in ("run", "tuned"):
        assert nanogpt.load(run, "torch").tokenizer.special_tokens == ends
        special = special_tokens(export_run(run, f"{run}-folder").resolve())
        assert [special["tokenizer", role] for role in ROLES] == ["<|endoftext|>", "<|endoftext|>", None]
        assert [special["text", role] for role in ROLES] == [0, 0, None]
        import_folder(f"{run}-folder", f"{run}-again")
        assert nanogpt.load(f"{run}-again", "torch").tokenizer.special_tokens == ends


def test_a_tokenizer_that_was_exchanged_is_not_exported(train: Train, tmp_path: Path) -> None:
    assert train("run", "--backend=torch", "--tokenizer=bpe:270", "--max_iters=1") == 0
    content = (tmp_path / "run/tokenizer.json").read_text()
    (tmp_path / "run/tokenizer.json").write_text(content.replace("<|endoftext|>", "<|end|>"))
    with pytest.raises(InputError, match="is not the one that this model was trained with"):
        export_run("run", "folder")
    assert not (tmp_path / "folder").exists()
