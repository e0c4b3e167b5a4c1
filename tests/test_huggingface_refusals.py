"""A folder that is incomplete, damaged or another model's is refused in one line, and nothing is written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nanogpt.errors import InputError
from nanogpt.huggingface import import_folder
from tests.huggingface_helpers import change_config, cut, put

pytest_plugins = ["tests.huggingface_fixtures"]

LN = "transformer.ln_f.weight"
BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "there is no folder"),
    (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
    (lambda f: (f / "model.safetensors.index.json").touch(), "holds model.safetensors in parts"),
    (lambda f: cut(f, "config.json"), "config.json can't be read: "),
    (lambda f: (f / "config.json").write_text("[]"), "config.json can't be read: "),
    (lambda f: (f / "config.json").write_bytes(b"\xff"), "config.json can't be read: "),
    (
        lambda f: change_config(f, model_type="llama"),
        "model_type is 'llama', but this model supports only gpt2",
    ),
    (lambda f: change_config(f, model_type=...), "model_type is None"),
    (lambda f: change_config(f, n_positions=...), "n_positions is None, but must be a whole number"),
    (lambda f: change_config(f, n_layer="2"), "n_layer is '2', but must be a whole number"),
    (lambda f: change_config(f, n_head=3), "n_embd 16 is not divisible by n_head 3"),
    (lambda f: change_config(f, n_head=0), "n_head 0 is out of range"),
    (lambda f: change_config(f, resid_pdrop="much"), "dropout 'much' must be of type float"),
    (lambda f: change_config(f, activation_function="gelu"), "activation_function is 'gelu'"),
    (lambda f: change_config(f, n_inner=48), "n_inner is 48"),
    (lambda f: change_config(f, layer_norm_epsilon=1e-6), "layer_norm_epsilon is 1e-06"),
    (lambda f: change_config(f, scale_attn_weights=False), "scale_attn_weights is False"),
    (lambda f: change_config(f, scale_attn_by_inverse_layer_idx=True), "by_inverse_layer_idx is True"),
    (lambda f: change_config(f, reorder_and_upcast_attn=True), "reorder_and_upcast_attn is True"),
    (lambda f: change_config(f, add_cross_attention=True), "add_cross_attention is True"),
    (lambda f: change_config(f, tie_word_embeddings=False), "lacks lm_head.weight"),
    (lambda f: change_config(f, n_layer=3), r"lacks transformer.h.2.attn.c_attn.bias and 11 more"),
    (
        lambda f: change_config(f, n_layer=1),
        r"this model does not have: transformer.h.1.attn.c_attn.bias and 11 more",
    ),
    (lambda f: change_config(f, vocab_size=319), r"wte.weight has shape \[320, 16\], expected \[319, 16\]"),
    (put("score.weight", np.zeros(2)), "this model does not have: score.weight"),
    (put("lm_head.weight", np.zeros((320, 16), np.float32)), "lm_head.weight is not wte.weight"),
    (put(LN, np.ones((16, 1), np.float32)), r"ln_f.weight has shape \[16, 1\], expected \[16\]"),
    (put(LN, np.ones(16, np.int8)), "ln_f.weight is I8, not F64 or F32"),
    (put(LN, np.full(16, np.nan, np.float32)), "ln_f.weight is not finite everywhere"),
    (put(LN, np.full(16, 1e300)), "ln_f.weight is not finite everywhere"),
    (lambda f: cut(f, "model.safetensors"), "model.safetensors can't be read: "),
    (lambda f: (f / "model.safetensors").write_bytes(b"PK\x03\x04" * 20), "safetensors can't be read: "),
    (lambda f: cut(f, "tokenizer.json"), "tokenizer.json can't be read: "),
    (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json can't be read: "),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_folder_that_cannot_be_imported_is_refused(
    damage: Callable[[Path], object], message: str, gpt2_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(gpt2_folder, tmp_path / "folder")
    damage(tmp_path / "folder")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as error:
        import_folder(tmp_path / "folder", tmp_path / "run")
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before
