"""The choice of a backend and of its device: by name, or those that suit this machine."""

import importlib
import platform
import shutil
import sys

from nanogpt.backend import Backend
from nanogpt.errors import InputError


def load_backend(name: str) -> type[Backend]:
    """Import the twin called `jax` or `torch`, or for `auto` the one that suits this machine."""
    if name == "auto":
        name = "torch" if _mps_is_available() else "jax"
    backend = importlib.import_module(f"nanogpt_{name}.backend").Backend
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
        raise InputError(f"{backend.name} finds no device {device!r} here; it has {', '.join(available)}")
    return device


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
