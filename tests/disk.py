"""A disk that loses its power: from the operations of a run, what it may hold afterwards.

A file keeps what it had at its last flush, and a folder the names that it had; of what happened to either
since then, any part may have reached the disk. A function chooses what is kept of it; these are there:

    nothing     the least that POSIX promises
    names       folders are kept in order, as journals do, but data is lost: files are short
    zeros       the same, with files of the right length that hold zeros
    drawn(...)  a part that is drawn
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanogpt.randomness import random_bits
from tests.faults import Operation


@dataclass
class File:
    """Changes are pairs: (offset, bytes written there), or (size that it is cut to, None)."""

    now: bytes = b""
    flushed: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def change(self, change: tuple[int, bytes | None]) -> None:
        self.now = with_change(self.now, change)
        self.pending.append(change)

    def after(self, keep: "Keep") -> bytes:
        """Its content after the loss."""
        content = self.flushed
        for change in keep(self.pending):
            content = with_change(content, change)
        return content


@dataclass
class Folder:
    """Changes map names to what they now stand for, which may be nothing."""

    now: dict[str, "File | Folder"] = field(default_factory=dict)
    flushed: dict[str, "File | Folder"] = field(default_factory=dict)
    pending: list[dict[str, "File | Folder | None"]] = field(default_factory=list)

    def change(self, change: dict[str, "File | Folder | None"]) -> None:
        self.now = with_names(self.now, change)
        self.pending.append(change)

    def after(self, keep: "Keep") -> dict[str, "File | Folder"]:
        """Its names after the loss."""
        names = self.flushed
        for change in keep(self.pending):
            names = with_names(names, change)
        return names


Keep = Callable[[list[Any]], Sequence[Any]]
Tree = dict[str, bytes | None]
"""The content of each file by its path; none for a folder."""


def with_change(content: bytes, change: tuple[int, bytes | None]) -> bytes:
    place, data = change
    start = content[:place].ljust(place, b"\0")
    return start if data is None else start + data + content[place + len(data) :]


def with_names(
    names: dict[str, File | Folder], change: dict[str, File | Folder | None]
) -> dict[str, File | Folder]:
    return {name: thing for name, thing in (names | change).items() if thing}


class Disk:
    """The disk behind a folder that begins empty."""

    def __init__(self, inode: int) -> None:
        """`inode` is the number of the folder itself."""
        self.root = Folder()
        self._things: dict[int, File | Folder] = {inode: self.root}

    def apply(self, operation: Operation) -> None:
        match operation.kind:
            case "create" | "mkdir":
                thing = File() if operation.kind == "create" else Folder()
                self._things[operation.inode] = thing
                folder, name = self._find(operation.path)
                folder.change({name: thing})
            case "truncate":
                self._things[operation.inode].change((operation.size, None))
            case "write":
                self._things[operation.inode].change((operation.offset, operation.data))
            case "flush":
                thing = self._things[operation.inode]
                thing.flushed, thing.pending = thing.now, []
            case "remove":
                folder, name = self._find(operation.path)
                folder.change({name: None})
            case "rename":
                (source, old), (target, new) = self._find(operation.path), self._find(operation.other)
                thing = source.now[old]
                if source is target:
                    source.change({old: None, new: thing})
                else:
                    target.change({new: thing})
                    source.change({old: None})

    def tree(self, keep: Keep | None = None) -> Tree:
        """Its content after a loss of power, or now."""
        tree: Tree = {}
        waiting = [("", self.root)]
        while waiting:
            above, folder = waiting.pop()
            for name, thing in (folder.after(keep) if keep else folder.now).items():
                if isinstance(thing, Folder):
                    tree[above + name] = None
                    waiting.append((above + name + "/", thing))
                else:
                    tree[above + name] = thing.after(keep) if keep else thing.now
        return tree

    def _find(self, path: str) -> tuple[Folder, str]:
        """The folder of a path, and the name there."""
        *above, name = path.split("/")
        folder = self.root
        for part in above:
            folder = folder.now[part]
        return folder, name


def nothing(pending: list[Any]) -> Sequence[Any]:
    return []


def names(pending: list[Any]) -> Sequence[Any]:
    return [change for change in pending if isinstance(change, dict) or change[1] is None]


def zeros(pending: list[Any]) -> Sequence[Any]:
    return [
        change if isinstance(change, dict) or change[1] is None else (change[0], bytes(len(change[1])))
        for change in pending
    ]


def drawn(seed: int, point: int) -> Keep:
    """A drawn bit decides, for each file and folder, whether the first changes are kept or any of them."""
    draws = 0

    def keep(pending: list[Any]) -> Sequence[Any]:
        nonlocal draws
        draws += 1
        bits = random_bits(seed, f"point {point}", draws, len(pending) + 2).tolist()
        if bits[0] % 2:
            return pending[: bits[1] % (len(pending) + 1)]
        return [change for change, bit in zip(pending, bits[2:], strict=True) if bit % 2]

    return keep


def write_tree(tree: Tree, folder: Path) -> None:
    folder.mkdir()
    for name, content in tree.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def read_tree(folder: Path) -> Tree:
    return {str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes() for p in folder.rglob("*")}
