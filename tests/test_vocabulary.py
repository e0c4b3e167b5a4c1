"""Tokens of one's own text: bytes, a vocabulary learnt by BPE, or a tokenizer.json."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanogpt
from nanogpt.cli.train import train_main
from nanogpt.errors import InputError
from nanogpt.huggingface import export_run, import_folder
from nanogpt.language_model import read_checkpoint
from nanogpt.text.tokenizer import CONTEXT, END_OF_TEXT, FileTokenizer, Tokenizer, decode_stream
from nanogpt.text.vocabulary import tokenizer_json
from tests.conftest import Train, tiny_flags

# It quotes the end token, which must not be learnt as a part of texts.
LEARNT_FROM = (
    f"{END_OF_TEXT} the king sleeps, the queen wakes; Gr\u00fc\u00dfe an K\u00f6nig \u738b \U0001f451\n\n"
    * 50
)


def tokenizer(name: str) -> FileTokenizer:
    return FileTokenizer(Path("tokenizer.json"), tokenizer_json(name, [LEARNT_FROM]))


TOKENIZERS = {name: tokenizer(name) for name in ("bytes", "bpe:300")}
texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(text=texts)
def test_bytes_are_tokens_of_their_values(text: str) -> None:
    tokens_T = TOKENIZERS["bytes"].encode(text)
    assert tokens_T.tolist() == list(text.encode())
    assert TOKENIZERS["bytes"].decode(tokens_T) == text
    assert TOKENIZERS["bytes"].vocab_size == 256


@given(text=st.lists(texts | st.sampled_from([END_OF_TEXT, *"<|>"])).map("".join))
def test_a_learnt_vocabulary_has_every_text_and_none_holds_its_end_token(text: str) -> None:
    tokens_T = TOKENIZERS["bpe:300"].encode(text)
    assert TOKENIZERS["bpe:300"].decode(tokens_T) == text
    assert TOKENIZERS["bpe:300"].special_tokens["eos_token_id"] not in tokens_T
    assert len(tokens_T) <= len(text.encode())


def test_a_vocabulary_is_learnt_from_the_text_and_the_same_each_time() -> None:
    made = [tokenizer_json("bpe:300", [LEARNT_FROM]) for _ in range(2)]
    assert made[0] == made[1]
    tokens = json.loads(made[0] or b"")["model"]["vocab"]
    assert len(tokens) == TOKENIZERS["bpe:300"].vocab_size == 300
    assert END_OF_TEXT in tokens
    assert "\u0120the" in tokens  # "the" behind a space
    assert len(TOKENIZERS["bpe:300"].encode(LEARNT_FROM)) < len(LEARNT_FROM) / 2


class Counting:
    """Counts the tokens that a tokenizer is given to decode."""

    vocabulary = None

    def __init__(self, of: Tokenizer) -> None:
        self.of, self.special_tokens, self.decoded = of, of.special_tokens, 0

    def encode(self, text: str) -> np.ndarray:
        return self.of.encode(text)

    def decode(self, tokens_T: np.ndarray) -> str:
        self.decoded += len(tokens_T)
        return self.of.decode(tokens_T)


@given(
    name=st.sampled_from(sorted(TOKENIZERS)),
    prompt=st.text("the k\u00f6\u738b", min_size=1),
    tokens=st.lists(st.integers(0, 255), max_size=60) | texts.map(lambda text: list(text.encode())),
    sizes=st.lists(st.integers(1, 20), min_size=60, max_size=60),
)
def test_a_text_comes_in_pieces_whatever_the_tokens(
    name: str, prompt: str, tokens: list[int], sizes: list[int]
) -> None:
    """The pieces are the text, also where bytes are no characters, and each costs as much as it is long."""
    counting = Counting(TOKENIZERS[name])
    prompt_T, tokens_N = counting.encode(prompt), np.array(tokens, np.int32)
    blocks = [block for block in np.split(tokens_N, np.cumsum(sizes)) if block.size]
    pieces = list(decode_stream(counting, prompt_T, blocks))
    assert len(pieces) <= len(blocks) + 1
    assert counting.decoded <= 6 * (len(tokens_N) + (CONTEXT + 3) * (len(blocks) + 1))
    whole = TOKENIZERS[name].decode(np.append(prompt_T, tokens_N))
    if "\ufffd" not in whole:
        assert TOKENIZERS[name].decode(prompt_T) + "".join(pieces) == whole
        assert "\ufffd" not in "".join(pieces)


def test_a_character_is_told_when_its_last_byte_comes() -> None:
    tokens_T = TOKENIZERS["bytes"].encode("x\U0001f451!")
    pieces = list(decode_stream(TOKENIZERS["bytes"], tokens_T[:1], tokens_T[1:, None]))
    assert pieces == ["", "", "", "\U0001f451", "!"]
    # Bytes that are no character don't hold back what follows.
    broken = [np.array([token], np.int32) for token in (255, 255, 255, 255, 255, 97)]
    assert "a" in "".join([*decode_stream(TOKENIZERS["bytes"], tokens_T[:1], broken)][:6])


@pytest.mark.parametrize("backend", [pytest.param("jax", marks=pytest.mark.long), "torch"])
def test_a_run_keeps_the_vocabulary_that_it_learnt(
    backend: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constant_rate = ["--learning_rate=1e-3", "--min_lr=1e-3", "--warmup_iters=0"]
    flags = [f"--backend={backend}", "--tokenizer=bpe:270", *constant_rate]
    assert train("run", *flags, "--max_iters=10") == 0
    assert "tokens of a vocabulary of 270: a loss of 1 is 0." in capsys.readouterr().out
    learnt = (tmp_path / "run/tokenizer.json").read_bytes()
    model = nanogpt.load("run", backend)
    assert model.config.vocab_size == 270
    text = "the king"
    assert model.generate(text, max_tokens=5).startswith(text)
    # It goes on without the flag, and exactly as if it had never stopped; another tokenizer is another run.
    assert train("run", f"--backend={backend}") == 0
    assert train("unbroken", *flags) == 0
    states = [read_checkpoint(tmp_path / name)[0] for name in ("run", "unbroken")]
    assert states[0].step == 20
    assert all(np.array_equal(states[0].weights[name], states[1].weights[name]) for name in states[0].weights)
    assert (tmp_path / "run/tokenizer.json").read_bytes() == learnt
    capsys.readouterr()
    assert train("run", "--tokenizer=bpe:271") == 2
    assert "tokenizer: bpe:270 -> bpe:271" in capsys.readouterr().err
    # It goes to transformers and comes back.
    export_run("run", "folder")
    import_folder("folder", "back")
    assert (
        nanogpt.load("back", backend).tokenizer.encode(text).tolist() == model.tokenizer.encode(text).tolist()
    )


@pytest.mark.parametrize("named", ["model", "model/tokenizer.json"])
def test_a_file_of_tokens_is_copied_into_the_run(named: str, train: Train, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/tokenizer.json").write_bytes(tokenizer_json("bpe:280", [LEARNT_FROM]) or b"")
    assert train("run", "--backend=torch", f"--tokenizer={named}", "--max_iters=2") == 0
    content = (tmp_path / "model/tokenizer.json").read_bytes()
    (tmp_path / "model/tokenizer.json").unlink()
    assert (tmp_path / "run/tokenizer.json").read_bytes() == content
    assert train("run", "--max_iters=3") == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bpe:256", "bpe takes a size from 257"),
        ("bpe:2000000", "bpe takes a size from 257 to 1,048,576"),
        ("bpe:many", "bpe takes a size"),
        ("nowhere.json", "there is no file nowhere.json"),
        (".", "there is no file tokenizer.json (--tokenizer also takes"),
        ("empty.json", "tokenizer.json can't be read"),
        ("damaged.json", "damaged.json can't be read|tokenizer.json can't be read"),
    ],
)
def test_a_tokenizer_that_there_is_not_leaves_nothing_behind(
    name: str, message: str, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.json").touch()
    (tmp_path / "damaged.json").write_text('{"model": {"type": "BPE"')
    assert train_main([f"--out_dir={tmp_path}/run", *tiny_flags(text_file), f"--tokenizer={name}"]) == 2
    error = capsys.readouterr().err
    assert any(part in error for part in message.split("|"))
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_without_the_library_a_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"^for --tokenizer bytes, install tokenizers: pip install"):
        tokenizer_json("bytes", [])
