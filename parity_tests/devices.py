"""The devices and the processes in which the twins are compared."""

import socket
from typing import Literal

import jax
import pytest

from nanogpt.processes import COORDINATOR

Device = Literal["cpu", "cuda", "mps"]


def device_of(backend: str, device: str) -> str:
    """Where a backend computes when both are compared on a device: jax has no MPS, and takes the CPU."""
    return "cpu" if (backend, device) == ("jax", "mps") else device


def skip_without_devices(count: int, device: str) -> None:
    """Skip a test of a mesh where jax finds fewer devices."""
    there = jax.device_count({"cuda": "gpu"}.get(device, device))
    if there < count:
        pytest.skip(f"a mesh of {count} devices, of which {there} are here: JAX_NUM_CPU_DEVICES makes more")


def address_of(backend: str) -> dict[str, str]:
    """The variable by which torchrun starts processes for jax; for torch none."""
    return {COORDINATOR: f"127.0.0.1:{free_port()}"} if backend == "jax" else {}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
