"""The choice of a backend and of its devices: by name, or those that suit this machine."""

import importlib
import platform
import shutil
import sys

from nanogpt.backend import Backend
from nanogpt.config import Config
from nanogpt.errors import InputError
from nanogpt.mesh import ONE_DEVICE, Mesh, parsed_mesh
from nanogpt.micro_batches import tokens_that_fit
from nanogpt.processes import BY_ITSELF, Launch

MORE_DEVICES = {
    "jax": "JAX_NUM_CPU_DEVICES=8 makes eight of a CPU",
    "torch": "torchrun --nproc_per_node 8 train.py starts eight processes, each with a device",
}
"""How each backend gets more devices than it has."""


def load_backend(name: str, launch: Launch = BY_ITSELF) -> type[Backend]:
    """Import the twin called `jax` or `torch`, or for `auto` the one that suits this machine.

    Raises InputError for another one than several processes were launched for.
    """
    if launch.count > 1:
        if name not in ("auto", launch.backend):
            raise InputError(
                f"these {launch.count} processes were started for {launch.backend}: add --backend "
                f"{launch.backend}, or start them for {name} (docs/scale.md)"
            )
        return _imported(launch.backend, "distributed")
    if name == "auto":
        name = "torch" if _mps_is_available() else "jax"
    backend = _imported(name, "backend")
    if name == "jax" and shutil.which("nvidia-smi"):
        _warn_without_cuda()
    return backend


def find_device(backend: type[Backend], device: str) -> str:
    """The device of this machine that is called `device`; for `auto` the backend's first.

    Raises InputError where this machine lacks it.
    """
    available = backend.devices()
    if device == "auto":
        return available[0]
    if device not in available:
        there = ", ".join(dict.fromkeys(available))
        raise InputError(f"{backend.name} finds no device {device!r} here; it has {there}")
    return device


def find_mesh(backend: type[Backend], config: Config, processes: int = 1) -> Mesh:
    """The devices of a run: those of its mesh, or for `auto` as many as share its batch out evenly.

    Then fsdp is as small as the memory of a device lets it be. Raises InputError where this machine lacks the
    device or so many of them, where its processes can't have equally many, and where the devices can't share
    the batch out evenly.
    """
    run, batch_size = config.run, config.training.batch_size
    device = find_device(backend, run.device)
    there = backend.devices().count(device)
    if run.mesh == "auto":
        sizes = range(processes, there + 1, processes)
        size = max((n for n in sizes if batch_size % n == 0), default=processes)
        mesh = _mesh_that_fits(size, backend.memory(device), config) if size > 1 else ONE_DEVICE
    else:
        mesh = parsed_mesh(run.mesh)
    if mesh.size % processes:
        raise InputError(
            f"a mesh of {run.mesh} has {mesh.size} devices, which {processes} processes can't have evenly"
        )
    if mesh.size > there:
        raise InputError(
            f"a mesh of {run.mesh} has {mesh.size} devices, and {backend.name} finds {there} {device} here "
            f"({MORE_DEVICES[backend.name]})"
        )
    if batch_size % mesh.size:
        nearest = max(1, round(batch_size / mesh.size)) * mesh.size
        raise InputError(
            f"batch_size {batch_size} can't be shared out evenly to {mesh.size} devices: take {nearest}"
        )
    return mesh


def _mesh_that_fits(size: int, memory: int | None, config: Config) -> Mesh:
    model, run = config.model, config.run
    itemsize = 2 if run.dtype == "bfloat16" else 4
    for fsdp in (n for n in range(1, size) if size % n == 0):
        if tokens_that_fit(model, itemsize, memory, run.remat, fsdp) >= model.block_size:
            return Mesh(size // fsdp, fsdp)
    return Mesh(1, size)


def _imported(name: str, module: str) -> type[Backend]:
    return importlib.import_module(f"nanogpt_{name}.{module}").Backend


def _mps_is_available() -> bool:
    # torch takes time to import, and only a Mac can have MPS.
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return False
    import torch

    return torch.backends.mps.is_available()


def _warn_without_cuda() -> None:
    import jax

    if jax.default_backend() == "cpu":
        print(
            "This machine has an NVIDIA card that jax can't use: "
            'pip install -c constraints.txt -e ".[cuda]" mends that',
            file=sys.stderr,
        )
