"""The kernels of a program that XLA compiled for a GPU: what they read, write and compute.

XLA has scheduled the program: each instruction outside a fusion is one kernel, or moves nothing.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.cuda.hlo import Array, Computation, Instruction, Program

# Instructions that start no kernel: they name memory, or order others.
SILENT = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"),
    *("partition-id", "replica-id"),
}
# Instructions of a fusion that move elements and compute none.
MOVING = SILENT | {
    *("broadcast", "reshape", "transpose", "slice", "concatenate", "pad", "iota", "copy", "reverse"),
    *("dynamic-slice", "dynamic-update-slice", "gather", "convert", "bitcast-convert"),
    *("all-gather-start", "all-to-all-start", "collective-permute-start"),
}
SLICES = {"slice", "dynamic-slice", "gather"}
PEAK_OF = {"bf16": "bfloat16", "f16": "bfloat16", "tf32": "tf32"}


@dataclass(frozen=True)
class Kernel:
    """One launch on the device."""

    name: str
    source: str
    """The operation of the JAX program that it comes from."""
    library: str | None
    """The library function that it calls."""
    read: int
    """Bytes."""
    written: int
    outputs: list[Array]
    flops: Counter[str]
    """By the precision that a card has a peak for: bfloat16, tf32, float32."""
    matmuls: Counter[str]
    """Matmuls by precision: bf16, tf32, f32, ..."""


def step_of(program: Program) -> list[Kernel]:
    """The kernels of one step, in order: of a turn of its loop of no fixed length, or else of all of it."""
    return [kernel for body in program.loops or [program.entry] for kernel in kernels_of(program, body)]


def kernels_of(program: Program, computation: str) -> list[Kernel]:
    """The kernels of a computation, those of a loop as often as it turns: once if that is not fixed.

    Raises ValueError for a choice between branches.
    """
    return [kernel_of(*launch, program) for launch in launched(program, computation)]


def launched(program: Program, computation: str) -> Iterator[tuple[Instruction, Computation]]:
    """The instructions that start something on the device, each with those around it, as for `kernels_of`."""
    around = program.computations[computation]
    for instruction in around.values():
        opcode = instruction.opcode
        if opcode == "conditional":
            raise ValueError(f"which branch {instruction.name} takes is not known")
        if opcode == "while":
            for _ in range(instruction.turns or 1):
                yield from launched(program, str(instruction.calls("body")))
        elif opcode in {"call", "async-start"}:
            yield from launched(program, str(instruction.calls("to_apply") or instruction.calls("calls")))
        elif opcode not in SILENT and not opcode.endswith(("-done", "-update")):
            yield instruction, around


def kernel_of(instruction: Instruction, around: Computation, program: Program) -> Kernel:
    """The kernel that an instruction starts."""
    inside = program.computations.get(instruction.calls("calls") or "")
    operands = [sum(a.bytes for a in around[name].arrays) for name in instruction.operands]
    # A library's bytes are its scratch memory.
    outputs = [
        a for a in instruction.arrays if instruction.opcode != "custom-call" or a.dtype not in {"s8", "u8"}
    ]
    read, written = sum(operands), sum(array.bytes for array in outputs)
    if inside:
        read = sum(read_of(i, inside) for i in inside.values() if i.opcode == "parameter")
        written = sum(written_by(root, inside) for root in roots(inside))
    elif instruction.opcode == "dynamic-update-slice":
        read = written = operands[1]
    flops, matmuls = work({instruction.name: instruction}, around, program)
    return Kernel(
        instruction.name,
        instruction.attribute(r'op_name="([^"]*)"') or instruction.opcode,
        instruction.attribute(r'custom_call_target="([^"]*)"'),
        read,
        written,
        outputs,
        flops,
        matmuls,
    )


def work(part: Computation, around: Computation, program: Program) -> tuple[Counter[str], Counter[str]]:
    """FLOPs and matmuls of instructions whose operands are in `around`."""
    flops: Counter[str] = Counter()
    matmuls: Counter[str] = Counter()
    for instruction in part.values():
        inside = program.computations.get(instruction.calls("calls") or "")
        operands = [around[name].arrays[0] for name in instruction.operands if around[name].arrays]
        target = instruction.attribute(r'custom_call_target="([^"]*)"') or ""
        size = sum(array.size for array in instruction.arrays)
        if inside is not None:
            more = work(inside, inside, program)
            flops, matmuls = flops + more[0], matmuls + more[1]
        elif instruction.opcode == "dot" or target.startswith("__cublas"):
            contracted = [operands[0].shape[n] for n in instruction.contracted]
            precision = precision_of(instruction, operands)
            matmuls[precision] += 1
            count = 2 * instruction.arrays[0].size * math.prod(contracted)
            flops[PEAK_OF.get(precision, "float32")] += count
        elif target.startswith("__cudnn$fmha"):
            # softmax(QK^T)V under a causal mask: two matmuls forward, five backward (Dao 2022).
            B, T, H, D = operands[0].shape
            flops["bfloat16"] += (5 if target.endswith("Backward") else 2) * B * H * T * T * D
        elif instruction.opcode == "custom-call":
            raise ValueError(f"what {instruction.name} computes is not known")
        elif instruction.opcode in {"reduce", "reduce-window"}:
            flops["float32"] += operands[0].size
        elif instruction.opcode not in MOVING:
            flops["float32"] += size
    return flops, matmuls


def precision_of(dot: Instruction, operands: list[Array]) -> str:
    """The type in which a matmul multiplies: its operands', or tf32 for float32 that need not be exact."""
    dtype = max(operands[:2], key=lambda array: array.bytes // max(1, array.size)).dtype
    algorithm = dot.attribute(r"algorithm=(\w+)")
    if algorithm:
        return algorithm.removeprefix("dot_").split("_")[0]
    # XLA's own kernels use tf32 by default alone, not where the precision is high.
    is_exact = (dot.attribute(r'operand_precision[":=]+[{[]"?(\w+)') or "").lower() in {"high", "highest"}
    return "tf32" if dtype == "f32" and not is_exact else dtype


def roots(computation: Computation) -> list[Instruction]:
    """The instructions whose values leave a computation."""
    (root,) = (i for i in computation.values() if i.is_root)
    return [computation[name] for name in root.operands] if root.opcode == "tuple" else [root]


def read_of(parameter: Instruction, inside: Computation) -> int:
    """Bytes of a fusion's parameter that it reads: the slices alone, where only slices are taken."""
    users = [i for i in inside.values() if parameter.name in i.operands]
    whole = sum(array.bytes for array in parameter.arrays)
    total = 0
    for user in users:
        if user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name:
            continue  # written in place
        sliced = user.opcode in SLICES and user.operands[0] == parameter.name
        total += user.arrays[0].bytes if sliced else whole
    return min(total, whole)


def written_by(root: Instruction, inside: Computation) -> int:
    """Bytes that leave a fusion by one of its roots: the update alone, where one is written in place."""
    while root.opcode == "bitcast" and root.operands:
        root = inside[root.operands[0]]
    if root.opcode == "dynamic-update-slice":
        return inside[root.operands[1]].arrays[0].bytes
    return sum(array.bytes for array in root.arrays)
