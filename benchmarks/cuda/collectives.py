"""The collectives of a program that XLA compiled for several GPUs: what they send to each other in a step."""

import math
import re
from dataclasses import dataclass

from benchmarks.cuda.hlo import Array, Instruction, Program
from benchmarks.cuda.kernels import launched

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Collective:
    """One collective."""

    kind: str
    arrays: list[Array]
    """The array that the group has together: the result of a gather, the operand of any other."""
    group: int
    """Devices that take part."""
    source: str
    """The operation of the JAX program that it comes from."""

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @property
    def sent(self) -> float:
        """Bytes that each device sends, by a ring: an all-reduce is a reduce-scatter and an all-gather."""
        if self.kind == "collective-permute":
            return self.bytes
        return (2 if self.kind == "all-reduce" else 1) * self.bytes * (self.group - 1) / self.group


def collectives_of(program: Program) -> list[Collective]:
    """The collectives of one step, in order; those of a loop count as often as it turns."""
    bodies = program.loops or [program.entry]
    found = [instruction for body in bodies for instruction, _ in launched(program, body)]
    return [
        collective(instruction) for instruction in found if instruction.opcode.removesuffix("-start") in KINDS
    ]


def collective(instruction: Instruction) -> Collective:
    """The collective that an instruction starts, or does."""
    kind, arrays = instruction.opcode.removesuffix("-start"), instruction.arrays
    group = group_size(instruction)
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        # Its type has the operands, then the results.
        half = len(arrays) // 2
        arrays = arrays[half : 2 * half] if kind == "all-gather" else arrays[:half]
    elif kind == "reduce-scatter":
        arrays = [Array(a.dtype, (group * a.shape[0], *a.shape[1:])) for a in arrays]
    return Collective(kind, arrays, group, instruction.attribute(r'op_name="([^"]*)"') or instruction.name)


def group_size(instruction: Instruction) -> int:
    """Devices of a group, as XLA writes it: {{0,1}}, [2,8]<=[16], axes of a mesh; or the number of pairs.

    Raises ValueError for anything else.
    """
    if listed := instruction.attribute(r"replica_groups=\{\{([\d,]*)\}"):
        return listed.count(",") + 1
    if size := instruction.attribute(r"replica_groups=\[\d+,(\d+)\]"):
        return int(size)
    if mesh := instruction.attribute(r"replica_groups=mesh(\[[^]]*\][^{]*\{[^}]*\})"):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[mesh.index("{") :])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if pairs := instruction.attribute(r"source_target_pairs=\{(.*?)\}\}"):
        return pairs.count("{")
    raise ValueError(f"the groups of {instruction.name} are not understood")
