"""The devices on which the twins are compared."""

from typing import Literal

Device = Literal["cpu", "cuda", "mps"]


def device_of(backend: str, device: str) -> str:
    """Where a backend computes when both are compared on a device: jax has no MPS, and takes the CPU."""
    return "cpu" if (backend, device) == ("jax", "mps") else device
