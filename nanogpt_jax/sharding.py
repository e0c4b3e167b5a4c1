"""Where arrays lie on a mesh of devices. XLA's partitioner makes one program of them and of the model."""

from collections.abc import Sequence
from itertools import groupby, islice
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import nanogpt.mesh


def device_mesh(mesh: nanogpt.mesh.Mesh, devices: Sequence[Any]) -> jax.sharding.Mesh:
    """The first devices of each process, as an array by the two axes; neighbours share weights."""
    share = mesh.size // len({device.process_index for device in devices})
    by_process = groupby(devices, key=lambda device: device.process_index)
    taken = [device for _, of_one in by_process for device in islice(of_one, share)]
    grid = np.array(taken).reshape(mesh)
    return jax.sharding.Mesh(grid, mesh._fields, len(mesh) * (AxisType.Auto,))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The sharding of an array that is whole on each device."""
    return NamedSharding(mesh, PartitionSpec())


def weight_sharding(mesh: jax.sharding.Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of a weight or a moment: its largest axis that `fsdp` divides is cut, or nothing is."""
    fsdp = mesh.shape["fsdp"]
    axes = [axis for axis, size in enumerate(shape) if fsdp > 1 and size % fsdp == 0]
    if not axes:
        return replicated(mesh)
    largest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*largest * [None], "fsdp"))


def weight_shardings(mesh: jax.sharding.Mesh, tree: Any) -> Any:
    """The sharding of each weight or moment of a tree."""
    return jax.tree.map(lambda array: weight_sharding(mesh, array.shape), tree)


def row_sharding(mesh: jax.sharding.Mesh, axis: int) -> NamedSharding:
    """The sharding of an array whose rows, counted by `axis`, all devices share."""
    return NamedSharding(mesh, PartitionSpec(*axis * [None], mesh.axis_names))
