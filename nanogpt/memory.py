"""The memory of this machine: what surely can't fit is refused before it is begun."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nanogpt.backend import MAX_STEPS_PER_CALL
from nanogpt.config import Config, ModelConfig, TrainingConfig
from nanogpt.errors import InputError
from nanogpt.micro_batches import activation_bytes, state_bytes
from nanogpt.muon import is_moved_by_muon
from nanogpt.weights import count_parameters, weight_shapes

# Linux keeps a container's limit in one of them.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "RESOURCE_EXHAUSTED")
"""Words of torch on CUDA and MPS, of torch on a CPU, and of jax."""


def machine_memory() -> float:
    """Bytes of memory that this machine has, or its container; infinite where Python can't tell (Windows)."""
    if not hasattr(os, "sysconf"):
        return math.inf
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in LIMITS:
        with suppress(OSError, ValueError):  # "max" stands for no limit
            memory = min(memory, int(file.read_text()))
    return memory


def require_memory(what: str, needed: int) -> None:
    """Raise InputError if this machine has less memory than the bytes that `what` needs at least."""
    there = machine_memory()
    if needed > there:
        raise InputError(
            f"{what} needs at least {in_units(needed)} of memory, and this machine has {in_units(there)}: "
            "take something smaller"
        )


def require_memory_for(model: ModelConfig, training: TrainingConfig | None = None) -> None:
    """Raise InputError if this machine can't hold a model, or can't train it with `training`."""
    names = ("n_layer", "n_embd", "block_size", "vocab_size")
    sizes = ", ".join(f"{name} {getattr(model, name)}" for name in names)
    if training is None:
        require_memory(f"a model of {sizes}", 4 * count_parameters(model))
    else:
        what = f"training with {sizes}, batch_size {training.batch_size}"
        require_memory(what, training_bytes(model, training))


def training_bytes(model: ModelConfig, training: TrainingConfig) -> int:
    """Lower bound for the memory that training takes, on whatever device it runs.

    It counts four bytes for each of these: the weights at the beginning; weights and moments, copied to be
    saved; the tokens of one call, for which jax makes room for as many steps as a call may have. Gradients
    and activations may be in the memory of the device.
    """
    tokens = MAX_STEPS_PER_CALL * training.batch_size * (model.block_size + 1)
    shapes = weight_shapes(model).items()
    second_moments = sum(math.prod(shape) for name, shape in shapes if not is_moved_by_muon(name, training))
    return 4 * (3 * count_parameters(model) + second_moments + tokens)


@contextmanager
def told_where_memory_ends(config: Config, fsdp: int) -> Iterator[None]:
    """Turn the error of a device that has no memory left, of either framework, into an InputError.

    Its line has the estimate by which `--micro_batch_size auto` goes (micro_batches.py), and what helps.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        model, run = config.model, config.run
        itemsize = 2 if run.dtype == "bfloat16" else 4
        state = state_bytes(model, itemsize, run.remat, fsdp)
        row = model.block_size * activation_bytes(model, itemsize, run.remat)
        raise InputError(
            f"out of memory: each device needs about {in_units(state)}, and {in_units(row)} for each row that"
            " it computes at once: take --remat, a smaller --micro_batch_size, or --mesh fsdp=N on N devices"
        ) from error


def in_units(size: float) -> str:
    """A number of bytes with three digits and a unit: 4.8 PB."""
    units = ["bytes", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.3g} {units[0]}"
