"""Export: write a checkpoint of a run as a GPT-2 folder."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from nanogpt.files import read_small
from nanogpt.huggingface.folders import new_folder, write_json
from nanogpt.huggingface.translation import (
    SPECIAL_TOKENS,
    gpt2_config,
    gpt2_name,
    special_texts,
    tokenizer_json,
)
from nanogpt.language_model import read_checkpoint
from nanogpt.text.tokenizer import tokenizer_of
from nanogpt.weights import weight_shapes


def export_run(
    out_dir: Path | str,
    folder: Path | str,
    checkpoint: str | int = "latest",
) -> Path:
    """Write a checkpoint of a run (latest, best or a step) as a GPT-2 folder, and return the folder.

    Raises InputError if there is no such checkpoint, or if the folder exists and is not empty.
    """
    from safetensors.numpy import save_file

    out_dir = Path(out_dir).expanduser()
    state, metadata = read_checkpoint(out_dir, checkpoint)
    config, vocabulary = metadata.config.model, metadata.vocabulary
    special_tokens = tokenizer_of(out_dir, metadata).special_tokens
    tensors = {}
    for name, shape in weight_shapes(replace(config, bias=True)).items():
        weight = state.weights.get(name, np.zeros(shape, np.float32))
        tensors[gpt2_name(name)] = np.ascontiguousarray(weight.T if name == "head.kernel" else weight)
    with new_folder(folder) as part:
        ids = dict.fromkeys(SPECIAL_TOKENS) | special_tokens
        write_json(part / "config.json", gpt2_config(config) | ids)
        write_json(part / "generation_config.json", ids)
        save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
        if vocabulary is not None:
            write_json(part / "tokenizer.json", tokenizer_json(vocabulary))
        elif os.path.lexists(out_dir / "tokenizer.json"):
            (part / "tokenizer.json").write_bytes(read_small(out_dir / "tokenizer.json"))
        if (part / "tokenizer.json").is_file():
            # Clean-up would remove the spaces before punctuation.
            settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
            settings |= {"model_max_length": config.block_size}
            texts = special_texts(special_tokens, (part / "tokenizer.json").read_bytes())
            write_json(part / "tokenizer_config.json", settings | texts)
    return Path(folder)
