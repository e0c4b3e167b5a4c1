"""A mesh: the devices that train one model together, in two axes (`--mesh data=4,fsdp=2`)."""

import re
from typing import NamedTuple

from nanogpt.errors import InputError


class Mesh(NamedTuple):
    """`data` groups of `fsdp` devices. All of them share the rows of a batch."""

    data: int = 1
    """Groups, each of which holds all weights and moments."""
    fsdp: int = 1
    """Devices of a group, which share its weights and moments (Zhao et al. 2023,
    https://arxiv.org/abs/2304.11277)."""

    @property
    def size(self) -> int:
        return self.data * self.fsdp

    def __str__(self) -> str:
        return f"data={self.data},fsdp={self.fsdp}"


ONE_DEVICE = Mesh()


def parsed_mesh(text: str) -> Mesh:
    """The mesh of a text like `data=4,fsdp=2`, in which one axis may be missing.

    Raises InputError for any other text.
    """
    sizes = dict(re.findall(r"(data|fsdp)=([1-9]\d{0,8})\b", text))
    if not sizes or text != ",".join(f"{axis}={size}" for axis, size in sizes.items()):
        raise InputError(f"mesh {text!r:.40} is none: write auto, or devices of two axes like data=4,fsdp=2")
    return Mesh(**{axis: int(size) for axis, size in sizes.items()})
