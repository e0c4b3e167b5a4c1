"""Each machine gets the twin that suits it, and a card that lies idle is mentioned."""

import math
import shutil
from pathlib import Path

import pytest

import nanogpt
from nanogpt.choice import load_backend
from nanogpt.config import ModelConfig
from nanogpt.micro_batches import micro_batch_rows, tokens_that_fit
from nanogpt.text.tokenizer import CharTokenizer


@pytest.fixture
def _no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.usefixtures("_no_card")
@pytest.mark.parametrize(
    ("system", "machine", "mps", "expected"),
    [
        ("Linux", "x86_64", False, "jax"),
        ("Darwin", "arm64", True, "torch"),
        ("Darwin", "arm64", False, "jax"),
        ("Darwin", "x86_64", False, "jax"),
        ("Windows", "AMD64", False, "jax"),
    ],
)
def test_auto_takes_torch_on_a_mac_with_mps(
    system: str, machine: str, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert load_backend("auto").name == expected


def test_a_card_that_jax_cannot_use_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr("jax.default_backend", lambda: "cpu")
    load_backend("jax")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    command = error.split(": ")[1].removesuffix(" mends that\n")
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert command in readme.splitlines()
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    load_backend("jax")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("batch_size", "block_size", "tokens", "rows"),
    [
        *[(64, 256, 2048, 8), (32, 64, 2048, 32), (7, 1024, 2048, 1), (12, 4096, 2048, 1)],
        *[(6, 8, math.inf, 6), (6, 8, 0, 1), (6, 8, 16.5, 2)],
        *[(10**15, 256, 2048, 8), (7**18, 256, 2048, 7)],  # at once
    ],
)
def test_micro_batches_share_the_batch_out_evenly(
    batch_size: int, block_size: int, tokens: float, rows: int
) -> None:
    assert micro_batch_rows(batch_size, block_size, tokens) == rows
    assert batch_size % rows == 0


def test_what_fits_grows_with_the_memory_and_shrinks_with_the_model() -> None:
    small, large = ModelConfig(), ModelConfig(50304, 1024, 12, 12, 768)
    assert tokens_that_fit(large, 2, None) == math.inf
    assert tokens_that_fit(large, 2, 10**9) == 0  # less than the training state
    of_size = [tokens_that_fit(large, 2, gigabytes * 10**9) for gigabytes in (4, 8, 24, 80)]
    assert sorted(set(of_size)) == of_size
    assert tokens_that_fit(large, 4, 80 * 10**9) < of_size[-1] / 2
    assert tokens_that_fit(small, 2, 80 * 10**9) > 10 * of_size[-1]


def test_a_model_without_blocks_has_no_attention_to_show() -> None:
    config, tokenizer = ModelConfig(vocab_size=2, n_layer=0), CharTokenizer("ab")
    model = nanogpt.LanguageModel(None, config, tokenizer, None)  # type: ignore[arg-type]
    with pytest.raises(nanogpt.InputError, match="no attention"):
        model.attention(tokenizer.encode("ab")[None])
