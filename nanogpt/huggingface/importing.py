"""Import: make a GPT-2 folder the start of a run."""

import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from nanogpt.checkpoint import Checkpoints
from nanogpt.config import Config, ModelConfig
from nanogpt.errors import InputError, told_in_a_line
from nanogpt.files import digests, read_small
from nanogpt.huggingface.folders import new_folder, required_file, write_json
from nanogpt.huggingface.translation import gpt2_name, read_config, read_special_tokens, read_vocabulary
from nanogpt.memory import require_memory_for
from nanogpt.metadata import Metadata
from nanogpt.source import Source
from nanogpt.state import TrainingState
from nanogpt.text.tokenizer import find_tokenizer
from nanogpt.weights import Weights, weight_shapes

BUFFERS = re.compile(r"h\.\d+\.attn\.(masked_)?bias$")  # causal masks in older files
FLOATS = ("F64", "F32", "F16", "BF16")


def import_folder(folder: Path | str, out_dir: Path | str) -> Path:
    """Make a GPT-2 folder the start of a run: its weights and tokenizer, step 0, moments of zero.

    Returns the run's folder. Raises InputError, and writes nothing, if a file in the folder is missing,
    damaged or beyond what this model can express, or if out_dir exists and is not empty.
    """
    source = read_folder(folder)
    with new_folder(out_dir) as part:
        if source.tokenizer_json:
            (part / "tokenizer.json").write_bytes(source.tokenizer_json)
        metadata = Metadata(
            Config(source.config),
            source.vocabulary,
            source.special_tokens,
            digests=digests(part, ["tokenizer.json"]),
        )
        write_json(part / "config.json", asdict(metadata.config))
        checkpoints = Checkpoints(part / "checkpoints")
        checkpoints.save(TrainingState.of_weights(source.weights), metadata)
        checkpoints.wait()
        checkpoints.close()
    if source.vocabulary is None and not source.tokenizer_json:
        print(f"{folder} holds no tokenizer.json: only token ids can be used", file=sys.stderr)
    return Path(out_dir)


def model_of_folder(folder: Path) -> ModelConfig:
    """The architecture of a GPT-2 folder. Raises InputError where there is none that this model can be."""
    return read_config(required_file(folder, "config.json"))


def read_folder(folder: Path | str) -> Source:
    """The weights and the tokenizer of a GPT-2 folder. Raises InputError as `import_folder` does."""
    folder = Path(folder).expanduser()
    config = model_of_folder(folder)
    weights = read_weights(required_file(folder, "model.safetensors"), replace(config, bias=True))
    if any(weight.any() for name, weight in weights.items() if name.endswith(".bias")):
        config = replace(config, bias=True)
    weights = {name: weights[name] for name in weight_shapes(config)}
    file = folder / "tokenizer.json"
    vocabulary = read_vocabulary(file, config.vocab_size)
    # A damaged tokenizer.json is refused now, not at its first use.
    find_tokenizer(folder, vocabulary, config.vocab_size)
    content = read_small(file) if file.is_file() else None
    special_tokens = read_special_tokens(folder, config.vocab_size, content)
    if special_tokens:  # which a CharTokenizer has not
        vocabulary = None
    return Source(config, weights, vocabulary, None if vocabulary else content, special_tokens)


def read_weights(file: Path, config: ModelConfig) -> Weights:
    """Read and check every weight of a `model.safetensors`: float32, by canonical name.

    Raises InputError if the file is damaged, or if a weight is missing, unknown, of another shape or type, or
    not finite.
    """
    import ml_dtypes  # noqa: F401  # teaches numpy bfloat16
    from safetensors import safe_open

    require_memory_for(config)
    weights = {}
    with told_in_a_line(f"{file} can't be read"), safe_open(file, "np") as tensors:
        found = set(tensors.keys())
        # Names have no prefix in files of a GPT2Model, which is saved without a head.
        prefix = "transformer." if any(name.startswith("transformer.") for name in found) else ""
        names = {name: gpt2_name(name, prefix) for name in weight_shapes(config)}
        if missing := set(names.values()) - found:
            raise InputError(f"{file} lacks {abbreviated(missing)}")
        left_over = {name for name in found - set(names.values()) if not BUFFERS.search(name)}
        if config.tie_weights and "lm_head.weight" in left_over:
            left_over.remove("lm_head.weight")
            if not np.array_equal(*map(tensors.get_tensor, ("lm_head.weight", f"{prefix}wte.weight"))):
                raise InputError(f"{file}: lm_head.weight is not wte.weight, though config.json ties them")
        if left_over:
            raise InputError(f"{file} holds weights that this model does not have: {abbreviated(left_over)}")
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


def abbreviated(names: Iterable[str]) -> str:
    """The first name in alphabetical order, and how many others there are."""
    first, *others = (ascii(name)[1:-1] for name in sorted(names))
    first = first[:80]
    return f"{first} and {len(others)} more" if others else first
