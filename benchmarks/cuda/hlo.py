"""Read the text of a program that XLA compiled, `compiled.as_text()` (https://openxla.org/xla/hlo_dumps)."""

import math
import re
from dataclasses import dataclass
from functools import cached_property

BITS = {"pred": 8, "token": 0, "opaque": 0}

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
TYPE = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)|\S+"
INSTRUCTION = re.compile(rf"^  (ROOT )?%?([\w.-]+) = ({TYPE}) ([a-z][\w-]*)\((.*)$")
ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")


@dataclass(frozen=True)
class Array:
    """The type of one array: XLA's name of its elements, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        bits = BITS[self.dtype] if self.dtype in BITS else int(re.sub(r"^[a-z]+(\d+).*", r"\1", self.dtype))
        return self.size * bits // 8


@dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    arrays: list[Array]
    """Its result; several arrays if it is a tuple."""
    operands: list[str]
    attributes: str
    is_root: bool

    def attribute(self, pattern: str) -> str | None:
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    def calls(self, role: str) -> str | None:
        """The computation that it calls as `body`, `calls` or `to_apply`."""
        return self.attribute(rf"\b{role}=%?([\w.-]+)")

    @property
    def turns(self) -> int | None:
        """How often a loop turns, if that is fixed."""
        fixed = self.attribute(r'known_trip_count":{"n":"(\d+)')
        return int(fixed) if fixed else None

    @property
    def contracted(self) -> list[int]:
        """The axes of a matmul's first operand over which it sums, of XLA's own kernel or of cuBLAS."""
        axes = self.attribute(r'lhs_contracting_dim(?:s=|ensions":)[{[]([\d,"]*)') or ""
        return [int(axis) for axis in re.findall(r"\d+", axes)]


Computation = dict[str, Instruction]


class Program:
    """A compiled program, as computations of instructions. Raises ValueError for any other text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        current: Computation = {}
        for line in text.splitlines():
            if header := COMPUTATION.match(line):
                current = self.computations[header[2]] = {}
                self.entry = header[2] if header[1] else self.entry
            elif found := INSTRUCTION.match(line):
                root, name, arrays, opcode, rest = found.groups()
                operands, _, attributes = rest.partition(")")
                current[name] = Instruction(
                    name,
                    opcode,
                    [Array(d, tuple(map(int, filter(None, s.split(","))))) for d, s in ARRAY.findall(arrays)],
                    re.findall(r"%([\w.-]+)", operands),
                    attributes,
                    root is not None,
                )
        if not self.entry:
            raise ValueError("this text has no ENTRY computation")

    @cached_property
    def loops(self) -> list[str]:
        """The bodies of the outermost loops whose length is not fixed."""
        loops = [i for i in self.computations[self.entry].values() if i.opcode == "while" and not i.turns]
        return [str(loop.calls("body")) for loop in loops]
