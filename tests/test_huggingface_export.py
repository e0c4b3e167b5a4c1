"""transformers computes the same from an export, and an import of it is the same model."""

import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import nanogpt
from nanogpt.cli.huggingface import export_main, import_main
from nanogpt.cli.sample import sample_main
from nanogpt.errors import InputError
from nanogpt.huggingface import export_run, import_folder
from nanogpt.language_model import read_checkpoint
from tests.conftest import BACKENDS, assert_same_weights
from tests.huggingface_helpers import (
    TEXT,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    assert_same_model,
    read_theirs,
)

pytest_plugins = ["tests.huggingface_fixtures"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_transformers_computes_the_same_from_an_export(
    styled_run: Path, backend: str, tmp_path: Path
) -> None:
    export_run(styled_run, tmp_path / "folder")
    model = nanogpt.load(styled_run, backend=backend)
    tokens_BT = model.tokenizer.encode(TEXT[:80]).reshape(2, 40)
    assert_same_model(styled_run, tmp_path / "folder", backend, tokens_BT)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    prompt = tokenizer("The king", return_tensors="pt")
    written = read_theirs(tmp_path / "folder").generate(**prompt, max_new_tokens=30, do_sample=False)
    assert tokenizer.decode(written[0]) == model.generate("The king", max_tokens=30, temperature=0)


@pytest.mark.parametrize("kind", [AutoTokenizer, PreTrainedTokenizerFast])
def test_an_exported_tokenizer_keeps_every_character(kind: Any, styled_run: Path, tmp_path: Path) -> None:
    export_run(styled_run, tmp_path / "folder")
    theirs = kind.from_pretrained(tmp_path / "folder")
    ours = nanogpt.load(styled_run, backend="torch").tokenizer
    ids = theirs(TEXT[:40], verbose=False)["input_ids"]
    assert ids == ours.encode(TEXT[:40]).tolist()
    assert theirs.decode(ids) == TEXT[:40]


def test_an_import_undoes_an_export(styled_run: Path, tmp_path: Path) -> None:
    export_run(styled_run, tmp_path / "folder")
    read_theirs(tmp_path / "folder").save_pretrained(tmp_path / "saved")
    AutoTokenizer.from_pretrained(tmp_path / "folder").save_pretrained(tmp_path / "saved")
    trained, before = read_checkpoint(styled_run)
    for folder in ("folder", "saved"):
        import_folder(tmp_path / folder, tmp_path / f"{folder}-run")
        state, metadata = read_checkpoint(tmp_path / f"{folder}-run")
        assert_same_weights(state.weights, trained.weights)
        assert state.step == 0
        assert not any(array.any() for array in (*state.first_moment.values(), *state.second_moment.values()))
        assert metadata.config.model == before.config.model
        assert metadata.vocabulary == before.vocabulary
        assert sorted(p.name for p in (tmp_path / f"{folder}-run").iterdir()) == [
            "checkpoints",
            "config.json",
        ]


def test_the_best_checkpoint_or_a_step_is_exported(finished_run: Path, tmp_path: Path) -> None:
    export_run(finished_run, tmp_path / "ten", checkpoint=10)
    export_run(finished_run, tmp_path / "best", checkpoint="best")
    wte = [
        load_file(tmp_path / name / "model.safetensors")["transformer.wte.weight"] for name in ("ten", "best")
    ]
    assert (wte[0] != wte[1]).any()
    with pytest.raises(InputError, match="there is no checkpoint '11'"):
        export_run(finished_run, tmp_path / "none", checkpoint=11)
    with pytest.raises(InputError, match="best exists already"):
        export_run(finished_run, tmp_path / "best")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "ten"]


def test_the_command_line(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_main([f"--out_dir={finished_run}", "--folder=folder", "--checkpoint=best"]) == 0
    assert import_main(["--folder", "folder", "--out-dir", "run"]) == 0
    assert sample_main(["--out_dir=run", "--backend=torch", "--max_tokens=3"]) == 0
    capsys.readouterr()
    assert export_main(["--out_dir=nowhere", "--folder=new"]) == 2
    assert import_main(["--folder=nowhere", "--out_dir=new"]) == 2
    assert re.fullmatch(
        "error: nowhere holds no run.*\nerror: there is no folder .*\n", capsys.readouterr().err
    )
    too_much = ["--folder=folder", "--out_dir=new", "--checkpoint=best"]
    for main, wrong in ((export_main, []), (import_main, []), (import_main, too_much)):
        with pytest.raises(SystemExit) as end:
            main(wrong)
        assert end.value.code == 2
