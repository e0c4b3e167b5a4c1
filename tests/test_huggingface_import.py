"""A GPT-2 folder of transformers is imported as the same model."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nanogpt.config import ModelConfig
from nanogpt.errors import InputError
from nanogpt.huggingface import export_run, import_folder
from nanogpt.language_model import read_checkpoint
from tests.conftest import BACKENDS, assert_same_weights
from tests.huggingface_helpers import assert_same_model, change_weights, save_gpt2

pytest_plugins = ["tests.huggingface_fixtures"]


def test_biases_that_are_no_longer_zero_are_imported(finished_run: Path, tmp_path: Path) -> None:
    export_run(finished_run, tmp_path / "folder")
    change_weights(tmp_path / "folder", lambda tensors: tensors["transformer.ln_f.bias"].__setitem__(3, 0.5))
    import_folder(tmp_path / "folder", tmp_path / "run")
    state, metadata = read_checkpoint(tmp_path / "run")
    assert metadata.config.model.bias
    assert state.weights["final_norm.bias"][3] == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_of_transformers_is_imported(tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    save_gpt2(tmp_path / "folder", tied=tied, dtype=dtype)
    import_folder(tmp_path / "folder", tmp_path / "run")
    _, metadata = read_checkpoint(tmp_path / "run")
    assert metadata.config.model == ModelConfig(320, 24, 2, 2, 16, 0.1, 0.1, True, "gelu", tied)
    for backend in BACKENDS if dtype == torch.float32 else ["torch"]:
        assert_same_model(tmp_path / "run", tmp_path / "folder", backend, np.arange(48).reshape(2, 24) * 5)


def test_old_and_headless_files_are_imported(gpt2_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(gpt2_folder, tmp_path / "old")

    def age(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"], tensors["h.1.attn.masked_bias"] = np.tri(24), np.array(-1e4, np.float32)
        tensors["lm_head.weight"] = tensors["wte.weight"].copy()

    change_weights(tmp_path / "old", age)
    import_folder(gpt2_folder, tmp_path / "run")
    import_folder(tmp_path / "old", tmp_path / "old-run")
    expected = read_checkpoint(tmp_path / "run")[0].weights
    assert_same_weights(read_checkpoint(tmp_path / "old-run")[0].weights, expected)


def test_a_run_is_never_written_over(finished_run: Path, gpt2_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "file").touch()
    for taken in ("run", "file"):
        with pytest.raises(InputError, match=f"{taken} exists already"):
            import_folder(gpt2_folder, tmp_path / taken)
    with pytest.raises(InputError, match="can't be written"):
        import_folder(gpt2_folder, tmp_path / "file" / "run")
    (tmp_path / "empty").mkdir()
    import_folder(gpt2_folder, tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "run"]
