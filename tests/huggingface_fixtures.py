"""Fixtures of the tests of nanogpt.huggingface, as a plugin: its folders are made once for all files."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from nanogpt.cli.train import train_main
from tests.conftest import tiny_flags
from tests.huggingface_helpers import TEXT, PreTrainedTokenizerFast, save_gpt2

STYLES = {
    "ours": ["--n_layer=2"],
    "gpt2": ["--n_layer=1", "--bias", "--activation=gelu", "--tie_weights"],
    "bigram": ["--n_layer=0"],
}


@pytest.fixture(scope="session")
def mixed_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_bytes(TEXT.encode())
    return file


@pytest.fixture(scope="session", params=STYLES)
def styled_run(
    request: pytest.FixtureRequest, mixed_text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of 20 steps. Tests must not write to it."""
    out_dir = tmp_path_factory.mktemp(request.param) / "run"
    flags = [*tiny_flags(mixed_text), "--block_size=40", *STYLES[request.param]]
    assert train_main([f"--out_dir={out_dir}", *flags, "--backend=torch", "--quiet"]) == 0
    return out_dir


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied GPT-2 of transformers with a byte-level tokenizer of 280 tokens in a vocabulary of 320."""
    folder = tmp_path_factory.mktemp("gpt2")
    save_gpt2(folder)
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
