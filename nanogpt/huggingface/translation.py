"""Translation to and from GPT-2: settings, names of weights, special tokens, and character tokenizers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt.config import ModelConfig
from nanogpt.errors import InputError, told_in_a_line
from nanogpt.files import read_small
from nanogpt.metadata import SpecialTokens

MAX_CONFIG = 2**20
"""Bytes of a `config.json` and its like. Small JSON can't make large objects."""
MAX_VOCABULARY = 2**25
"""Bytes of the `tokenizer.json` of a CharTokenizer: all of Unicode's characters take fewer."""
SIZES = {
    "vocab_size": "vocab_size",
    "n_positions": "block_size",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
}
# The settings that this model can express, each with transformers' default first.
SETTINGS: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "relu"),
    "tie_word_embeddings": (True, False),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
    "add_cross_attention": (False,),
}
SPECIAL_TOKENS = {"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": None}
"""Transformers takes these where a `config.json` says nothing, though they may lie beyond the vocabulary."""
NAMES = {
    "token_embedding.embedding": "wte.weight",
    "position_embedding.embedding": "wpe.weight",
    "blocks.": "h.",
    "attention_norm.": "ln_1.",
    "attention.query_key_value.": "attn.c_attn.",
    "attention.output.": "attn.c_proj.",
    "feed_forward_norm.": "ln_2.",
    "feed_forward.expand.": "mlp.c_fc.",
    "feed_forward.contract.": "mlp.c_proj.",
    "final_norm.": "ln_f.",
    ".scale": ".weight",
    ".kernel": ".weight",
}


def gpt2_config(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a model."""
    return {name: getattr(config, ours) for name, ours in SIZES.items()} | {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "relu" if config.activation == "relu" else "gelu_new",
        "resid_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
        "embd_pdrop": 0.0,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": config.tie_weights,
        "nanogpt": {"bias": config.bias},
    }


def read_config(file: Path) -> ModelConfig:
    """The model of a `config.json`. Raises InputError if it is damaged or this model can't express it."""
    with told_in_a_line(f"{file} can't be read"):
        values = {"model_type": None, "n_inner": None, **read_object(file)}
        for name, known in SETTINGS.items():
            if values.setdefault(name, known[0]) not in known:
                choice = " or ".join(map(str, known))
                raise InputError(
                    f"{file}: {name} is {values[name]!r:.40}, but this model supports only {choice}"
                )
        for name in SIZES:
            if type(values.get(name)) is not int:
                raise InputError(f"{file}: {name} is {values.get(name)!r:.40}, but must be a whole number")
        if values["n_inner"] not in (None, 4 * values["n_embd"]):
            raise InputError(
                f"{file}: n_inner is {values['n_inner']!r:.40}, but this model supports only 4 n_embd"
            )
        return ModelConfig(
            **{ours: values[name] for name, ours in SIZES.items()},
            dropout=values.get("resid_pdrop", 0.1),
            attention_dropout=values.get("attn_pdrop", 0.1),
            bias=values.get("nanogpt") != {"bias": False},
            activation="relu" if values["activation_function"] == "relu" else "gelu",
            tie_weights=values["tie_word_embeddings"],
        )


def read_object(file: Path) -> dict[str, Any]:
    """The settings in a small file of JSON. Raises InputError where there are none."""
    with told_in_a_line(f"{file} can't be read"):
        if (size := file.stat().st_size) > MAX_CONFIG:
            raise InputError(f"{file} has {size:,} bytes: it must have at most {MAX_CONFIG:,}")
        return {**json.loads(read_small(file))}


def read_special_tokens(folder: Path, vocab_size: int, tokenizer_json: bytes | None) -> SpecialTokens:
    """The special tokens that the files of a GPT-2 folder name, but for those beyond the vocabulary.

    Raises InputError for a file that can't be read and for an id that is no number.
    """
    files = ("config.json", "generation_config.json", "tokenizer_config.json")
    config, generation, tokenizer = (
        read_object(folder / name) if (folder / name).is_file() else {} for name in files
    )
    added, special = added_tokens(tokenizer_json), {}
    for role, default in SPECIAL_TOKENS.items():
        value = generation.get(role, config.get(role, default))
        if value is None:
            text = tokenizer.get(role.removesuffix("_id"))
            value = added.get(text["content"] if isinstance(text, dict) else str(text))
        numbers = value if role == "eos_token_id" and isinstance(value, list) else [value]
        if any(type(number) is not int for number in numbers if number is not None):
            raise InputError(f"{folder}: {role} is {value!r:.40}, but must be a whole number")
        inside = [number for number in numbers if number is not None and 0 <= number < vocab_size]
        if inside:
            special[role] = inside if len(inside) > 1 else inside[0]
    return special


def special_texts(special_tokens: SpecialTokens, tokenizer_json: bytes) -> dict[str, str]:
    """The special tokens of a `tokenizer_config.json`, which has their texts."""
    texts = {number: text for text, number in added_tokens(tokenizer_json).items()}
    first = {role: np.ravel(numbers)[0] for role, numbers in special_tokens.items()}
    return {role.removesuffix("_id"): texts[number] for role, number in first.items() if number in texts}


def added_tokens(tokenizer_json: bytes | None) -> dict[str, int]:
    """Text and id of the tokens that a `tokenizer.json` adds to its model, its special tokens among them."""
    with told_in_a_line("tokenizer.json can't be read"):
        added = json.loads(tokenizer_json or b"{}").get("added_tokens", [])
        return {token["content"]: token["id"] for token in added}


def gpt2_name(name: str, prefix: str = "transformer.") -> str:
    """The name that GPT-2 has for a weight of weights.py; the head never has the prefix."""
    if name == "head.kernel":
        return "lm_head.weight"
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return prefix + name


def tokenizer_json(vocabulary: str) -> dict[str, Any]:
    """The `tokenizer.json` of a CharTokenizer, with every key that the library tokenizers writes."""
    return {
        "version": "1.0",
        "added_tokens": [],
        "decoder": {"type": "Fuse"},
        **dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor")),
        "model": {
            "type": "BPE",
            "vocab": {character: token for token, character in enumerate(vocabulary)},
            "merges": [],
            **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
            **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
        },
    }


def read_vocabulary(file: Path, vocab_size: int) -> str | None:
    """The characters of a CharTokenizer's `tokenizer.json`; None if the file is another's or missing."""
    try:
        if file.stat().st_size > MAX_VOCABULARY:
            return None
        values = json.loads(read_small(file))
        vocabulary = "".join(sorted(values["model"]["vocab"]))
        # transformers adds a post-processor that does nothing.
        ours = values | {"post_processor": None} == tokenizer_json(vocabulary)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return vocabulary if ours and len(vocabulary) == vocab_size else None
