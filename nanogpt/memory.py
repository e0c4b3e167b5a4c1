"""The memory of this machine: what surely can't fit is refused before it is begun."""

import contextlib
import math
import os
from pathlib import Path

from nanogpt.backend import MAX_STEPS_PER_CALL
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.errors import InputError
from nanogpt.muon import is_moved_by_muon
from nanogpt.weights import count_parameters, weight_shapes

# Linux keeps a container's limit in one of them.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_memory() -> float:
    """Bytes of memory that this machine has, or its container; infinite where Python can't tell (Windows)."""
    if not hasattr(os, "sysconf"):
        return math.inf
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" stands for no limit
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


def in_units(size: float) -> str:
    """A number of bytes with three digits and a unit: 4.8 PB."""
    units = ["bytes", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.3g} {units[0]}"
