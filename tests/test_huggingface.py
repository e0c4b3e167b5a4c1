"""The open format: transformers computes the same from an export, an import is the same model, and a folder
that can't be one is refused."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import nanogpt.training.loop
from nanogpt.cli.sample import sample_main
from nanogpt.cli.train import train_main
from nanogpt.config import ModelConfig
from nanogpt.errors import InputError
from nanogpt.huggingface import export_run, import_folder
from nanogpt.huggingface.__main__ import main
from nanogpt.language_model import read_checkpoint
from nanogpt.text.tokenizer import decode_stream
from tests.conftest import BACKENDS, assert_same_weights, tiny_flags

TEXT = "The king , o'er the  sea:\n\n\tna\u00efve \u2014 \u4e2d \U0001f600 don't ' s .\r\n" * 60
STYLES = {
    "ours": ["--n_layer=2"],
    "gpt2": ["--n_layer=1", "--bias", "--activation=gelu", "--tie_weights"],
    "bigram": ["--n_layer=0"],
}


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_bytes(TEXT.encode())
    return file


@pytest.fixture(scope="session", params=STYLES)
def run(request: pytest.FixtureRequest, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps. Not to be written to."""
    out_dir = tmp_path_factory.mktemp(request.param) / "run"
    flags = [*tiny_flags(text), "--block_size=40", *STYLES[request.param]]
    assert train_main([f"--out_dir={out_dir}", *flags, "--backend=torch", "--quiet"]) == 0
    return out_dir


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied GPT-2 of transformers with a byte-level tokenizer of 280 tokens in a vocabulary of 320."""
    folder = tmp_path_factory.mktemp("gpt2")
    save_gpt2(folder, tied=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    return folder


def save_gpt2(folder: Path, *, tied: bool, dtype: torch.dtype = torch.float32) -> None:
    sizes = {"vocab_size": 320, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
    torch.manual_seed(3)
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, tie_word_embeddings=tied))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.to(dtype).save_pretrained(folder)


def read_theirs(folder: Path) -> GPT2LMHeadModel:
    model, notes = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(notes.values())
    return model.eval()


def assert_same_model(run: Path, folder: Path, backend: str, tokens_BT: np.ndarray) -> None:
    with torch.no_grad():
        expected_BTV = read_theirs(folder)(torch.tensor(tokens_BT, dtype=torch.long)).logits.numpy()
    actual_BTV = nanogpt.load(run, backend=backend).logits(tokens_BT)
    np.testing.assert_allclose(actual_BTV, expected_BTV, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_transformers_computes_the_same_from_an_export(run: Path, backend: str, tmp_path: Path) -> None:
    export_run(run, tmp_path / "folder")
    model = nanogpt.load(run, backend=backend)
    tokens_BT = model.tokenizer.encode(TEXT[:80]).reshape(2, 40)
    assert_same_model(run, tmp_path / "folder", backend, tokens_BT)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    prompt = tokenizer("The king", return_tensors="pt")
    written = read_theirs(tmp_path / "folder").generate(**prompt, max_new_tokens=30, do_sample=False)
    assert tokenizer.decode(written[0]) == model.generate("The king", max_tokens=30, temperature=0)


@pytest.mark.parametrize("kind", [AutoTokenizer, PreTrainedTokenizerFast])
def test_an_exported_tokenizer_keeps_every_character(kind: Any, run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "folder")
    theirs, ours = kind.from_pretrained(tmp_path / "folder"), nanogpt.load(run, backend="torch").tokenizer
    ids = theirs(TEXT[:40], verbose=False)["input_ids"]
    assert ids == ours.encode(TEXT[:40]).tolist()
    assert theirs.decode(ids) == TEXT[:40]


def test_an_import_undoes_an_export(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "folder")
    read_theirs(tmp_path / "folder").save_pretrained(tmp_path / "saved")
    AutoTokenizer.from_pretrained(tmp_path / "folder").save_pretrained(tmp_path / "saved")
    trained, before = read_checkpoint(run)
    for folder in ("folder", "saved"):
        import_folder(tmp_path / folder, tmp_path / f"{folder}-run")
        state, metadata = read_checkpoint(tmp_path / f"{folder}-run")
        assert_same_weights(state.weights, trained.weights)
        assert state.step == 0
        assert not any(array.any() for array in (*state.first_moment.values(), *state.second_moment.values()))
        assert metadata.config["model"] == before["config"]["model"]
        assert metadata.vocabulary == before["vocabulary"]
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


def test_biases_that_are_no_longer_zero_are_imported(finished_run: Path, tmp_path: Path) -> None:
    export_run(finished_run, tmp_path / "folder")
    change_weights(tmp_path / "folder", lambda tensors: tensors["transformer.ln_f.bias"].__setitem__(3, 0.5))
    import_folder(tmp_path / "folder", tmp_path / "run")
    state, metadata = read_checkpoint(tmp_path / "run")
    assert metadata.config["model"]["bias"]
    assert state.weights["final_norm.bias"][3] == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_of_transformers_is_imported(tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    save_gpt2(tmp_path / "folder", tied=tied, dtype=dtype)
    import_folder(tmp_path / "folder", tmp_path / "run")
    model = read_checkpoint(tmp_path / "run")[1]["config"]["model"]
    assert ModelConfig(**model) == ModelConfig(320, 24, 2, 2, 16, 0.1, True, "gelu", tied)
    for backend in BACKENDS if dtype == torch.float32 else ["torch"]:
        assert_same_model(tmp_path / "run", tmp_path / "folder", backend, np.arange(48).reshape(2, 24) * 5)


def test_old_and_headless_files_are_imported(gpt2: Path, tmp_path: Path) -> None:
    shutil.copytree(gpt2, tmp_path / "old")

    def age(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"], tensors["h.1.attn.masked_bias"] = np.tri(24), np.array(-1e4, np.float32)
        tensors["lm_head.weight"] = tensors["wte.weight"].copy()

    change_weights(tmp_path / "old", age)
    import_folder(gpt2, tmp_path / "run")
    import_folder(tmp_path / "old", tmp_path / "old-run")
    expected = read_checkpoint(tmp_path / "run")[0].weights
    assert_same_weights(read_checkpoint(tmp_path / "old-run")[0].weights, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_imported_tokenizer_reads_writes_and_trains(
    backend: str,
    gpt2: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nanogpt.training, "SAMPLE_TOKENS", 5)
    import_folder(gpt2, tmp_path / "run")
    ours, theirs = nanogpt.load("run", backend=backend).tokenizer, AutoTokenizer.from_pretrained(gpt2)
    strange = TEXT[:50] + "<|endoftext|> \u00e9\u0301 \u65e5"
    assert ours.encode(strange).dtype == np.int32
    assert ours.encode(strange).tolist() == theirs(strange)["input_ids"]
    assert ours.decode(ours.encode(strange)) == strange == theirs.decode(theirs(strange)["input_ids"])
    # A character spread over tokens comes whole.
    tokens_T = ours.encode(strange)
    pieces = list(decode_stream(ours, tokens_T[:2], tokens_T[2:, None]))
    assert ours.decode(tokens_T[:2]) + "".join(pieces) == strange
    assert len(pieces) == len(tokens_T) - 2
    assert "\ufffd" not in "".join(pieces)

    assert sample_main(["--out_dir=run", f"--backend={backend}", "--prompt=The king", "--max_tokens=40"]) == 0
    assert capsys.readouterr().out.startswith("The king")
    flags = [f"--data={text}", "--batch_size=2", "--max_iters=2", "--eval_interval=2", "--warmup_iters=0"]
    assert train_main(["--out_dir=run", f"--backend={backend}", *flags]) == 0
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
    vocabularies = [read_checkpoint(folder)[1]["vocabulary"] for folder in (finished_run, tmp_path / "run")]
    assert vocabularies[0] == vocabularies[1]


def test_a_model_without_a_tokenizer_takes_token_ids_alone(
    gpt2: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(gpt2, tmp_path / "folder", ignore=shutil.ignore_patterns("tokenizer*"))
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
    assert train_main(["--out_dir=run", "--backend=torch", f"--data={text}", "--quiet"]) == 2
    assert capsys.readouterr().err.count("came without a tokenizer") == 2
    export_run("run", "again")
    assert sorted(path.name for path in Path("again").iterdir()) == ["config.json", "model.safetensors"]


def test_a_missing_library_is_named(gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"install tokenizers: pip install .*\[huggingface\]"):
        import_folder(gpt2, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | values
    config = {name: value for name, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor.copy() for name, tensor in tensors.items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def put(name: str, tensor: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: change_weights(folder, lambda tensors: tensors.update({name: tensor}))


def cut(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


LN = "transformer.ln_f.weight"
BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "there is no folder"),
    (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
    (lambda f: (f / "model.safetensors.index.json").touch(), "holds model.safetensors in parts"),
    (lambda f: cut(f, "config.json"), "config.json can't be read: "),
    (lambda f: (f / "config.json").write_text("[]"), "config.json can't be read: "),
    (lambda f: (f / "config.json").write_bytes(b"\xff"), "config.json can't be read: "),
    (lambda f: change_config(f, model_type="llama"), "model_type is 'llama', but this model knows only gpt2"),
    (lambda f: change_config(f, model_type=...), "model_type is None"),
    (lambda f: change_config(f, n_positions=...), "n_positions is None, but must be a whole number"),
    (lambda f: change_config(f, n_layer="2"), "n_layer is '2', but must be a whole number"),
    (lambda f: change_config(f, n_head=3), "n_embd 16 is not divisible by n_head 3"),
    (lambda f: change_config(f, n_head=0), "n_head 0 is out of range"),
    (lambda f: change_config(f, resid_pdrop="much"), "config.json can't be read: "),
    (lambda f: change_config(f, activation_function="gelu"), "activation_function is 'gelu'"),
    (lambda f: change_config(f, n_inner=48), "n_inner is 48"),
    (lambda f: change_config(f, layer_norm_epsilon=1e-6), "layer_norm_epsilon is 1e-06"),
    (lambda f: change_config(f, scale_attn_weights=False), "scale_attn_weights is False"),
    (lambda f: change_config(f, scale_attn_by_inverse_layer_idx=True), "by_inverse_layer_idx is True"),
    (lambda f: change_config(f, reorder_and_upcast_attn=True), "reorder_and_upcast_attn is True"),
    (lambda f: change_config(f, add_cross_attention=True), "add_cross_attention is True"),
    (lambda f: change_config(f, tie_word_embeddings=False), "lacks lm_head.weight"),
    (lambda f: change_config(f, n_layer=3), r"lacks transformer.h.2.attn.c_attn.bias and 11 more"),
    (lambda f: change_config(f, n_layer=1), r"no place for: transformer.h.1.attn.c_attn.bias and 11 more"),
    (lambda f: change_config(f, vocab_size=319), r"wte.weight has shape \[320, 16\], expected \[319, 16\]"),
    (put("score.weight", np.zeros(2)), "no place for: score.weight"),
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
    damage: Callable[[Path], object], message: str, gpt2: Path, tmp_path: Path
) -> None:
    shutil.copytree(gpt2, tmp_path / "folder")
    damage(tmp_path / "folder")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as error:
        import_folder(tmp_path / "folder", tmp_path / "run")
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(gpt2: Path, tmp_path: Path) -> None:
    shutil.copytree(gpt2, tmp_path / "folder")
    put("transformer.wte.weight", np.zeros((279, 16), np.float32))(tmp_path / "folder")
    change_config(tmp_path / "folder", vocab_size=279)
    with pytest.raises(InputError, match=r"tokenizer.json has 280 tokens, but the model 279"):
        import_folder(tmp_path / "folder", tmp_path / "run")


def test_a_run_is_never_written_over(finished_run: Path, gpt2: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "file").touch()
    for taken in ("run", "file"):
        with pytest.raises(InputError, match=f"{taken} exists already"):
            import_folder(gpt2, tmp_path / taken)
    with pytest.raises(InputError, match="can't be written"):
        import_folder(gpt2, tmp_path / "file" / "run")
    (tmp_path / "empty").mkdir()
    import_folder(gpt2, tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "run"]


def test_the_command_line(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", f"--out_dir={finished_run}", "--folder=folder", "--checkpoint=best"]) == 0
    assert main(["import", "--folder", "folder", "--out-dir", "run"]) == 0
    assert sample_main(["--out_dir=run", "--backend=torch", "--max_tokens=3"]) == 0
    capsys.readouterr()
    assert main(["export", "--out_dir=nowhere", "--folder=new"]) == 2
    assert main(["import", "--folder=nowhere", "--out_dir=new"]) == 2
    assert re.fullmatch(
        "error: nowhere holds no run.*\nerror: there is no folder .*\n", capsys.readouterr().err
    )
    for wrong in (["export"], ["mport"], ["import", "--folder=folder", "--out_dir=new", "--checkpoint=best"]):
        with pytest.raises(SystemExit) as end:
            main(wrong)
        assert end.value.code == 2
