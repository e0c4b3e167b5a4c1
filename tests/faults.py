"""The file operations of a run, noted in order or made to fail; and a clock that is wrong.

The process of the run preloads a library (faults.c), which watches one folder.
"""

import ctypes
import faulthandler
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from nanogpt.cli.train import train_main

WRITING, READING = 1, 2
HERE = "tests.faults:armed"


@dataclass(frozen=True)
class Faults:
    folder: Path
    """The folder that is watched. The path has no link in it."""
    notes: Path
    """A file, elsewhere, to which each operation is added."""
    kinds: int = 0
    """WRITING, READING or both: operations that count."""
    first: int = 0
    last: int = 0
    """The numbers of the first and last operation that fail, from 1."""
    error: int = 0
    seconds: int = 0
    """The clock is wrong by so much,"""
    moved_at: int = 0
    """from the operation of this number on."""

    def flags(self) -> list[str]:
        """The arguments before those of `train.py`, for the function `HERE` in a fork."""
        return [str(value) for value in vars(self).values()]


def armed(arguments: list[str]) -> int:
    """`train.py` under the faults of the first arguments, in a process that has preloaded the library."""
    folder, notes, *numbers = arguments[: len(Faults.__dataclass_fields__)]
    faulthandler.enable()  # SIGABRT tells where it hangs
    arm = ctypes.CDLL(None).faults_arm
    arm.argtypes = [ctypes.c_char_p] * 2 + [ctypes.c_long] * len(numbers)
    arm(folder.encode(), notes.encode(), *map(int, numbers))
    return train_main(arguments[2 + len(numbers) :])


def preloaded(folder: Path) -> dict[str, str]:
    """The environment in which a process preloads the library, which is built in a folder."""
    if sys.platform != "linux" or not shutil.which("cc"):
        pytest.skip("it takes Linux and a C compiler to see the file operations of a run")
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}


@dataclass(frozen=True)
class Operation:
    """An operation that was noted, with paths relative to the folder that is watched."""

    kind: str
    """create, truncate, write, flush, mkdir, remove, rename or access; fail for one that had to fail; end."""
    size: int
    """Bytes of a write, or the number of the operation that had to fail, or the count of all operations."""
    inode: int
    offset: int
    path: str
    other: str
    """The second path of a rename; the kind of the operation that had to fail."""
    data: bytes

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.path, self.other)))


def read_notes(faults: Faults) -> list[Operation]:
    operations = []
    with faults.notes.open("rb") as file:
        for line in file:
            kind, *numbers, path, other = os.fsdecode(line.removesuffix(b"\n")).split("\t")
            size, inode, offset = map(int, numbers)
            data = file.read(size) if kind == "write" else b""
            root = str(faults.folder)
            paths = (name.removeprefix(root).removeprefix("/") for name in (path, other))
            operations.append(Operation(kind, size, inode, offset, *paths, data))
    return operations
