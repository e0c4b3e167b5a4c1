"""An open format: a checkpoint as a GPT-2 folder of Hugging Face's transformers, and such a folder as a run.

    python -m nanogpt.huggingface export --out_dir out/quick --folder quick-gpt2
    python -m nanogpt.huggingface import --folder gpt2 --out_dir out/gpt2

The folder is `config.json`, `model.safetensors` and, if the model has a tokenizer, `tokenizer.json` and
`tokenizer_config.json`. The weights are ours (weights.py) by other names, and GPT2LMHeadModel computes the
same from them. What GPT-2 does not have is carried like this:

- A head of its own is `lm_head.weight`, our kernel transposed, and `tie_word_embeddings` is false.
- Absent biases are written as zeros, and `"nanogpt": {"bias": false}` in `config.json` has an import leave
  them out again, if they still are zeros.
- A character tokenizer is a BPE model of single characters that merges none.

An import takes weights of any floating type as float32, and `resid_pdrop` for its dropout.
"""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from nanogpt.backend import TrainingState
from nanogpt.checkpoint import Checkpoints
from nanogpt.cli import guarded
from nanogpt.config import Config, ModelConfig
from nanogpt.errors import InputError, told_in_a_line
from nanogpt.language_model import read_checkpoint
from nanogpt.tokenizer import find_tokenizer
from nanogpt.weights import Weights, weight_shapes

SIZES = {
    "vocab_size": "vocab_size",
    "n_positions": "block_size",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
}
# The settings that this model can express, transformers' default first.
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
BUFFERS = re.compile(r"h\.\d+\.attn\.(masked_)?bias$")  # causal masks in older files
FLOATS = ("F64", "F32", "F16", "BF16")


def export_run(out_dir: Path | str, folder: Path | str, checkpoint: str | int = "latest") -> Path:
    """Write a checkpoint of a run (latest, best or a step) as a GPT-2 folder, and return the folder.

    Raises InputError when there is no such checkpoint, and when the folder exists and is not empty.
    """
    from safetensors.numpy import save_file

    out_dir = Path(out_dir).expanduser()
    state, metadata = read_checkpoint(out_dir, checkpoint)
    config, vocabulary = ModelConfig(**metadata["config"]["model"]), metadata["vocabulary"]
    tensors = {}
    for name, shape in weight_shapes(replace(config, bias=True)).items():
        weight = state.weights.get(name, np.zeros(shape, np.float32))
        tensors[_their_name(name)] = np.ascontiguousarray(weight.T if name == "head.kernel" else weight)
    with _new_folder(folder) as part:
        _write_json(part / "config.json", _their_config(config))
        save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
        if vocabulary is not None:
            _write_json(part / "tokenizer.json", _their_tokenizer(vocabulary))
        elif (out_dir / "tokenizer.json").is_file():
            shutil.copy(out_dir / "tokenizer.json", part)
        if (part / "tokenizer.json").is_file():
            # Cleaning up would take the spaces before punctuation away.
            settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
            _write_json(part / "tokenizer_config.json", settings | {"model_max_length": config.block_size})
    return Path(folder)


def import_folder(folder: Path | str, out_dir: Path | str) -> Path:
    """Make a GPT-2 folder the beginning of a run: its weights and tokenizer, step 0, moments of zero.

    Returns the run's folder.

    Raises InputError, with nothing written, when something in the folder is missing, damaged or beyond what
    this model can express, and when out_dir exists and is not empty.
    """
    folder = Path(folder).expanduser()
    config = _our_config(_file(folder, "config.json"))
    weights = _our_weights(_file(folder, "model.safetensors"), replace(config, bias=True))
    if any(weight.any() for name, weight in weights.items() if name.endswith(".bias")):
        config = replace(config, bias=True)
    weights = {name: weights[name] for name in weight_shapes(config)}
    tokenizer_file = folder / "tokenizer.json"
    vocabulary = _our_vocabulary(tokenizer_file, config.vocab_size)
    find_tokenizer(folder, vocabulary, config.vocab_size)  # to fail now, not when it is used
    values = asdict(Config(config))
    metadata = {"config": values, "vocabulary": vocabulary, "data": None, "backend": None, "elapsed": 0.0}
    with _new_folder(out_dir) as part:
        _write_json(part / "config.json", values)
        if vocabulary is None and tokenizer_file.is_file():
            shutil.copy(tokenizer_file, part)
        checkpoints = Checkpoints(part / "checkpoints")
        checkpoints.save(TrainingState.of_weights(weights), metadata | {"metrics": None})
        checkpoints.wait()
        checkpoints.close()
    if not tokenizer_file.is_file():
        print(f"{folder} holds no tokenizer.json: only token ids can be used", file=sys.stderr)
    return Path(out_dir)


def _their_config(config: ModelConfig) -> dict[str, Any]:
    return {name: getattr(config, ours) for name, ours in SIZES.items()} | {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "relu" if config.activation == "relu" else "gelu_new",
        "resid_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "embd_pdrop": 0.0,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": config.tie_weights,
        # By default 50256, which may lie beyond our vocabulary.
        "bos_token_id": None,
        "eos_token_id": None,
        "nanogpt": {"bias": config.bias},
    }


def _our_config(file: Path) -> ModelConfig:
    with told_in_a_line(f"{file} can't be read"):
        values = {"model_type": None, "n_inner": None, **json.loads(file.read_text(encoding="utf-8"))}
        for name, known in SETTINGS.items():
            if values.setdefault(name, known[0]) not in known:
                choice = " or ".join(map(str, known))
                raise InputError(f"{file}: {name} is {values[name]!r}, but this model knows only {choice}")
        for name in SIZES:
            if type(values.get(name)) is not int:
                raise InputError(f"{file}: {name} is {values.get(name)!r}, but must be a whole number")
        if values["n_inner"] not in (None, 4 * values["n_embd"]):
            raise InputError(f"{file}: n_inner is {values['n_inner']!r}, but this model knows only 4 n_embd")
        return ModelConfig(
            **{ours: values[name] for name, ours in SIZES.items()},
            dropout=values.get("resid_pdrop", 0.1),
            bias=values.get("nanogpt") != {"bias": False},
            activation="relu" if values["activation_function"] == "relu" else "gelu",
            tie_weights=values["tie_word_embeddings"],
        )


def _our_weights(file: Path, config: ModelConfig) -> Weights:
    """The weights of a file by canonical name, each of them checked, and none left over."""
    import ml_dtypes  # noqa: F401  # teaches numpy bfloat16
    from safetensors import safe_open

    weights = {}
    with told_in_a_line(f"{file} can't be read"), safe_open(file, "np") as tensors:
        found = set(tensors.keys())
        # What is saved without a head (a GPT2Model) has no prefix.
        prefix = "transformer." if any(name.startswith("transformer.") for name in found) else ""
        names = {name: _their_name(name, prefix) for name in weight_shapes(config)}
        if missing := set(names.values()) - found:
            raise InputError(f"{file} lacks {_listed(missing)}")
        left_over = {name for name in found - set(names.values()) if not BUFFERS.search(name)}
        if config.tie_weights and "lm_head.weight" in left_over:
            left_over.remove("lm_head.weight")
            if not np.array_equal(*map(tensors.get_tensor, ("lm_head.weight", f"{prefix}wte.weight"))):
                raise InputError(f"{file}: lm_head.weight is not wte.weight, though config.json ties them")
        if left_over:
            raise InputError(f"{file} holds what this model has no place for: {_listed(left_over)}")
        for name, shape in weight_shapes(config).items():
            header, expected = tensors.get_slice(names[name]), shape[::-1] if name == "head.kernel" else shape
            if tuple(header.get_shape()) != expected:
                raise InputError(
                    f"{file}: {names[name]} has shape {header.get_shape()}, expected {list(expected)}"
                )
            if header.get_dtype() not in FLOATS:
                raise InputError(f"{file}: {names[name]} is {header.get_dtype()}, not {' or '.join(FLOATS)}")
            with np.errstate(over="ignore"):
                weight = tensors.get_tensor(names[name]).astype(np.float32)
            if not np.isfinite(weight).all():
                raise InputError(f"{file}: {names[name]} is not finite everywhere")
            weights[name] = np.ascontiguousarray(weight.T if name == "head.kernel" else weight)
    return weights


def _their_name(name: str, prefix: str = "transformer.") -> str:
    if name == "head.kernel":
        return "lm_head.weight"
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return prefix + name


def _their_tokenizer(vocabulary: str) -> dict[str, Any]:
    """The `tokenizer.json` of a CharTokenizer, in full, as the library tokenizers writes it."""
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


def _our_vocabulary(file: Path, vocab_size: int) -> str | None:
    """The characters of a `tokenizer.json` that is a CharTokenizer's; None if it is another, or absent."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = "".join(sorted(values["model"]["vocab"]))
        # transformers puts in a post-processor that does nothing.
        ours = values | {"post_processor": None} == _their_tokenizer(vocabulary)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return vocabulary if ours and len(vocabulary) == vocab_size else None


def _file(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    if (folder / f"{name}.index.json").is_file():
        raise InputError(f"{folder} holds {name} in parts: save it with a larger max_shard_size")
    if not (folder / name).is_file():
        raise InputError(f"{folder} holds no {name}")
    return folder / name


@contextmanager
def _new_folder(path: Path | str) -> Iterator[Path]:
    """A folder to write into, which takes its place when all is written and is gone if that fails."""
    folder = Path(path).expanduser().resolve()
    with told_in_a_line(f"{folder} can't be written"):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists already: name another folder, or empty it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            part = Path(temporary) / folder.name
            part.mkdir()
            yield part
            part.rename(folder)


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _listed(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first


def main(arguments: list[str] | None = None) -> int:
    """`python -m nanogpt.huggingface`. Returns its exit code, as train_main."""
    return guarded(_main, sys.argv[1:] if arguments is None else arguments)


def _main(arguments: list[str]) -> int:
    commands: dict[str, Callable[..., Path]] = {"export": export_run, "import": import_folder}
    prog = "python -m nanogpt.huggingface"
    made = tyro.extras.subcommand_cli_from_dict(commands, prog=prog, args=arguments, use_underscores=True)
    print(f"Wrote {made}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
