"""The devices on which the twins are compared."""

from typing import Literal

import jax
import pytest

Device = Literal["cpu", "cuda", "mps"]


def device_of(backend: str, device: str) -> str:
    """Where a backend computes when both are compared on a device: jax has no MPS, and takes the CPU."""
    return "cpu" if (backend, device) == ("jax", "mps") else device


def skip_without_devices(count: int, device: str) -> None:
    """Skip a test of a mesh where jax finds fewer devices."""
    there = jax.device_count({"cuda": "gpu"}.get(device, device))
    if there < count:
        pytest.skip(f"a mesh of {count} devices, of which {there} are here: JAX_NUM_CPU_DEVICES makes more")
