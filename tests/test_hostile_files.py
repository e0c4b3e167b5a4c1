"""Files that are, or claim, more than a machine can hold are refused in a line, and nothing is made."""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanogpt import memory
from nanogpt.cli.huggingface import export_main
from nanogpt.cli.sample import sample_main
from nanogpt.config import ModelConfig
from nanogpt.errors import InputError
from nanogpt.huggingface import export_run, import_folder, translation
from nanogpt.huggingface.importing import read_weights
from nanogpt.huggingface.translation import SETTINGS, SIZES, read_config
from nanogpt.text.tokenizer import find_tokenizer
from tests.limits import bounded, complaint, refusal

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
Damage = Callable[[Path], object]

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
SCALARS |= st.sampled_from([10**9, 10**400, 2**63, -3, "x" * 10_000, "a\nb"])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    with bounded():
        yield


@pytest.fixture(scope="session")
def exported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a run of character tokens. No test may write to the folder."""
    return export_run(finished_run, tmp_path_factory.mktemp("exported") / "folder")


def link(name: str, target: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return damage


def pipe(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def write(name: str, content: str | bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def lengthen(name: str, size: int) -> Damage:
    return lambda folder: os.truncate(folder / name, size)


def put(name: str, **values: Any) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | values
        (folder / name).write_text(json.dumps(content))

    return damage


def header(content: bytes | dict[str, Any], length: int | None = None) -> Damage:
    """Replace the header of the weights, and the length that the file gives for it."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return write(WEIGHTS, struct.pack("<Q", len(raw) if length is None else length) + raw)


def claim(vocab_size: int) -> Damage:
    """Let config and weights agree on a vocabulary, in a file of holes as large as that."""

    def damage(folder: Path) -> None:
        put(CONFIG, vocab_size=vocab_size)(folder)
        content = (folder / WEIGHTS).read_bytes()
        tensors = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
        tensors.pop("__metadata__", None)
        end = 0
        for name, tensor in tensors.items():
            if name.endswith(("wte.weight", "lm_head.weight")):
                tensor["shape"][0] = vocab_size
            begin, end = end, end + 4 * int(np.prod(tensor["shape"], dtype=object))
            tensor["data_offsets"] = [begin, end]
        header(tensors)(folder)
        os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size + end)

    return damage


def nested(kind: str, key: str, depth: int) -> Damage:
    """Put a tokenizer's part into itself again and again."""

    def damage(folder: Path) -> None:
        content = json.dumps(json.loads((folder / TOKENIZER).read_text()) | {kind: None})
        inner = f'{{"type": "Sequence", "{key}": [' * depth + "]}" * depth
        (folder / TOKENIZER).write_text(content.replace(f'"{kind}": null', f'"{kind}": {inner}'))

    return damage


HOSTILE: dict[str, tuple[Damage, str]] = {
    "many layers": (
        put(CONFIG, n_layer=10**9),
        "n_layer 1000000000 is out of range: it must be at most 10,000",
    ),
    "wide": (put(CONFIG, n_embd=10**12), "n_embd 1000000000000, .* needs at least 48 YB of memory"),
    "long": (put(CONFIG, n_positions=10**12), "block_size 1000000000000, .* needs at least 64 TB of memory"),
    "tokens": (put(CONFIG, vocab_size=10**12), "vocab_size 1000000000000 needs at least 128 TB of memory"),
    "digits": (put(CONFIG, n_embd=10**400), "n_embd is out of range: it must be below"),
    "a float": (put(CONFIG, n_layer=1.0), "n_layer is 1.0, but must be a whole number"),
    "negative": (put(CONFIG, n_layer=-1), "n_layer -1 is out of range"),
    "nan": (put(CONFIG, n_layer=float("nan")), "n_layer is nan, but must be a whole number"),
    "nan dropout": (put(CONFIG, resid_pdrop=float("nan")), "dropout nan is out of range"),
    "a long value": (
        put(CONFIG, model_type="x" * 10**6),
        "model_type is 'x{39}, but this model supports only gpt2",
    ),
    "deep config": (write(CONFIG, "[" * 100_000), "config.json can't be read: maximum recursion depth"),
    "long config": (
        lengthen(CONFIG, 10**8),
        "config.json has 100,000,000 bytes: it must have at most 1,048,576",
    ),
    "endless config": (link(CONFIG, "/dev/zero"), "holds no config.json"),
    "waiting config": (pipe(CONFIG), "holds no config.json"),
    "endless weights": (link(WEIGHTS, "/dev/zero"), "holds no model.safetensors"),
    "waiting weights": (pipe(WEIGHTS), "holds no model.safetensors"),
    "long header": (header(b"{}", length=2**62), "model.safetensors can't be read: .*header too large"),
    "header beyond the file": (
        header(b"{}", length=10**7),
        "model.safetensors can't be read: .*invalid header length",
    ),
    "deep header": (header(b"[" * 10**6), "model.safetensors can't be read: .*invalid"),
    "large shape": (
        header(
            {
                "transformer.wte.weight": {
                    "dtype": "F32",
                    "shape": [10**9, 16],
                    "data_offsets": [0, 64 * 10**9],
                }
            }
        ),
        "model.safetensors can't be read: ",
    ),
    "overflow": (
        header({"transformer.wte.weight": {"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 0]}}),
        "model.safetensors can't be read: .*overflow",
    ),
    "holes": (lengthen(WEIGHTS, 2**40), "model.safetensors can't be read: "),
    "holes of the right shape": (claim(10**11), "vocab_size 100000000000 needs at least 12.8 TB of memory"),
    "deep tokenizer": (write(TOKENIZER, "[" * 100_000), "tokenizer.json can't be read: "),
    "deep object": (write(TOKENIZER, '{"model":' * 100_000), "tokenizer.json can't be read: "),
    "deep normalizer": (nested("normalizer", "normalizers", 100_000), "recursion limit exceeded"),
    "deep decoder": (nested("decoder", "decoders", 100_000), "recursion limit exceeded"),
    "long tokenizer": (lengthen(TOKENIZER, 2**40), "tokenizer.json has 1,099,511,627,776 bytes"),
    "endless tokenizer": (link(TOKENIZER, "/dev/zero"), "tokenizer.json is no plain file"),
    "waiting tokenizer": (pipe(TOKENIZER), "tokenizer.json is no plain file"),
    "lost tokenizer": (link(TOKENIZER, "nowhere"), "tokenizer.json can't be read: "),
    "a panic": (
        put(TOKENIZER, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "tokenizer.json can't be read: Precompiled",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_folder_is_refused(case: str, exported: Path, tmp_path: Path) -> None:
    damage, message = HOSTILE[case]
    shutil.copytree(exported, tmp_path / "folder")
    damage(tmp_path / "folder")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as error:
        import_folder(tmp_path / "folder", tmp_path / "run")
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 500
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_in_a_file_stays_in_the_line(exported: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(exported / WEIGHTS)
    shutil.copytree(exported, tmp_path / "folder")
    save_file(tensors | {"a\nb" + "c" * 1_000: np.zeros(1, np.float32)}, tmp_path / "folder" / WEIGHTS)
    told = complaint(lambda: import_folder(tmp_path / "folder", tmp_path / "run"))
    assert told
    assert told.endswith(r"weights that this model does not have: a\nb" + "c" * 76)


@pytest.mark.parametrize("tokenizer", ["/dev/zero", "pipe", "holes"])
@pytest.mark.parametrize("command", ["sample", "export"])
def test_a_runs_own_tokenizer_is_not_trusted(
    command: str, tokenizer: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported, tmp_path / "folder")
    content = json.loads((exported / TOKENIZER).read_text())
    put(TOKENIZER, normalizer={"type": "NFC"})(tmp_path / "folder")
    import_folder(tmp_path / "folder", tmp_path / "run")
    assert json.loads((tmp_path / "run" / TOKENIZER).read_text()) == content | {"normalizer": {"type": "NFC"}}
    damage = {"pipe": pipe(TOKENIZER), "holes": lengthen(TOKENIZER, 2**40)}.get(
        tokenizer, link(TOKENIZER, tokenizer)
    )
    damage(tmp_path / "run")
    if command == "sample":
        told = refusal(sample_main, ["--out_dir=run", "--backend=torch"], capsys)
    else:
        told = refusal(export_main, ["--out_dir=run", "--folder=again"], capsys)
    assert told.startswith(f"error: run/{TOKENIZER} ")
    assert not (tmp_path / "again").exists()


@given(
    values=st.dictionaries(st.sampled_from([*SIZES, *SETTINGS, "n_inner", "resid_pdrop", "nanogpt"]), JSON)
)
def test_any_config_is_refused_in_a_line_or_read(
    values: dict[str, Any], exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("config") / CONFIG
    file.write_text(json.dumps(json.loads((exported / CONFIG).read_text()) | values))
    configs: list[ModelConfig] = []
    assert complaint(lambda: configs.append(read_config(file))) or configs


PARTS = st.sampled_from(["normalizer", "pre_tokenizer", "decoder", "model", "added_tokens", "padding"])


@given(key=PARTS, value=JSON)
@example(key="normalizer", value={"type": "Precompiled", "precompiled_charsmap": 0})
@example(key="model", value={"type": "BPE", "vocab": {"a": 4 * 10**9}, "merges": []})
def test_any_tokenizer_is_refused_in_a_line_or_read(
    key: str, value: Any, exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / TOKENIZER).write_text(json.dumps(json.loads((exported / TOKENIZER).read_text()) | {key: value}))
    complaint(lambda: find_tokenizer(folder, None, 65).encode("the king"))


@given(
    tensors=st.dictionaries(
        st.sampled_from(["transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight", "a\nb"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "I8", "F8_E4M3", "none"]),
                "shape": st.lists(st.integers(-1, 9) | st.sampled_from([2**31, 2**62, 2**64]), max_size=3),
                "data_offsets": st.lists(st.integers(0, 200) | st.integers(2**40, 2**70), max_size=3),
            }
        ),
    )
)
def test_any_header_is_refused_in_a_line(
    tensors: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("weights")
    header(tensors)(folder)
    assert complaint(lambda: read_weights(folder / WEIGHTS, ModelConfig()))


def test_a_long_tokenizer_is_not_made_objects(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = exported / TOKENIZER
    vocabulary = "".join(json.loads(file.read_text())["model"]["vocab"])
    monkeypatch.setattr(translation, "MAX_VOCABULARY", file.stat().st_size)
    assert translation.read_vocabulary(file, len(vocabulary)) == vocabulary
    monkeypatch.setattr(translation, "MAX_VOCABULARY", file.stat().st_size - 1)
    assert translation.read_vocabulary(file, len(vocabulary)) is None


def test_weights_that_fit_the_file_but_not_the_machine_are_refused(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "machine_memory", lambda: 1_000)
    with pytest.raises(InputError, match="and this machine has 1 kB"):
        import_folder(exported, tmp_path / "run")
