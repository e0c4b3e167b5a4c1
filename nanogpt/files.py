"""Files that are whole, or not there: replaced at once, or written line by line, and flushed to the disk."""

import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from nanogpt.errors import InputError

SMALL = 2**28
"""Bytes that a file of settings or measurements may have. Nothing that we write comes near it."""


def write_atomically(file: Path, text: str) -> None:
    """Replace a file whole: nobody reads half of it, and a loss of power leaves the old one or the new."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        flush(part)
        part.replace(file)
        flush(file.parent)
    finally:
        part.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, where they are missing.

    Raises InputError where that can't be done, or where nothing may be written there.
    """
    try:
        for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            missing.mkdir(exist_ok=True)
            flush(missing.parent)
        folder.mkdir(exist_ok=True)  # which raises an error where a file has that name
    except OSError as error:
        raise InputError(f"the folder {folder} can't be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"nothing may be written to the folder {folder}")


def flush(path: Path) -> None:
    """Wait until a file, or the list of files of a folder, is on the disk itself."""
    windows = os.name == "nt"
    if windows and path.is_dir():
        return  # it opens no folders, and keeps their lists itself
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit(part: Path, final: Path) -> None:
    """Rename a folder once all that is in it is on the disk, and wait until the rename is there too."""
    for folder, _, files in os.walk(part, topdown=False, onerror=_raise):
        for path in (*files, "."):
            flush(Path(folder, path))
    part.rename(final)
    flush(final.parent)


def _raise(error: OSError) -> NoReturn:
    raise error


def read_small(file: Path) -> bytes:
    """The content of a file of settings or measurements.

    Raises OSError where it can't be read, and InputError where it is too large or no plain file: a link may
    lead to a device that has no end.
    """
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for a writer
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{file} is no plain file")
        if found.st_size > SMALL:
            raise InputError(f"{file} has {found.st_size:,} bytes: it must have at most {SMALL:,}")
        with os.fdopen(descriptor, "rb", closefd=False) as opened:
            return opened.read(SMALL)
    finally:
        os.close(descriptor)


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of those of the named files that are in a folder."""
    files = [folder / name for name in names if (folder / name).is_file()]
    return {file.name: hashlib.sha256(read_small(file)).hexdigest() for file in files}


class JsonLines:
    """A file with one JSON object a line. Each object has a step, and every step stands in it once."""

    def __init__(
        self, file: Path, last_step: int, check: Callable[[dict[str, Any]], object], digest: str | None = None
    ) -> None:
        """Keep the lines up to `last_step`: the later steps are about to be measured again.

        `digest` is that of the file when the step was saved, which may have been evaluated since. Where lines
        are damaged, lost or changed, a copy of the file is kept beside it, and a line on standard error says
        so.
        """
        self._file = file
        lines, damaged = read_lines(file, check)
        lines = [line for line in lines if line["step"] <= last_step]
        # Damage after the last line that is kept concerns steps that are measured again.
        damaged = [number for index, number in enumerate(damaged) if number <= len(lines) + index]
        self.lines = sorted({line["step"]: line for line in lines}.values(), key=lambda line: line["step"])
        if damaged:
            self._keep_copy("is damaged in line " + ", ".join(map(str, damaged)))
        elif lines != self.lines or digest not in (None, _digest(lines), _digest(lines[:-1])):
            self._keep_copy("has lost or changed lines")
        write_atomically(file, _text(self.lines))

    def _keep_copy(self, wrong: str) -> None:
        kept = ""
        if self._file.exists():
            copy = shutil.copy(self._file, free_name(self._file.with_name(f"damaged-{self._file.name}")))
            kept = f": a copy of it is kept as {copy}"
        print(f"{self._file} {wrong}{kept}", file=sys.stderr)

    def flush(self) -> None:
        """Wait until every line is on the disk."""
        flush(self._file)

    def append(self, line: dict[str, Any]) -> None:
        """Add a line, or replace that of its step. Raises OSError, and leaves no half a line.

        `flush` brings it to the disk.
        """
        if self.lines and self.lines[-1]["step"] == line["step"]:
            self.lines[-1] = line
            write_atomically(self._file, _text(self.lines))
            return
        size = self._file.stat().st_size
        try:
            with self._file.open("a", encoding="utf-8", newline="\n") as file:
                file.write(_text([line]))
        except OSError:  # as of a full disk
            os.truncate(self._file, size)
            raise
        self.lines.append(line)


def read_lines(
    file: Path, check: Callable[[dict[str, Any]], object]
) -> tuple[list[dict[str, Any]], list[int]]:
    """The objects of a file of JSON lines, and the numbers of the lines that are damaged.

    `check` raises an exception for an object that is not as it was written. A last line without an end was
    cut short by a kill: it counts as neither.
    """
    *lines, _ = read_small(file).split(b"\n") if file.exists() else [b""]
    objects, damaged = [], []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line.decode("utf-8"), parse_constant=_refuse)
            check(value)
            objects.append(value)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            damaged.append(number)
    return objects, damaged


def _text(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def _digest(lines: list[dict[str, Any]]) -> str:
    return hashlib.sha256(_text(lines).encode()).hexdigest()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def free_name(path: Path) -> Path:
    """`path`, or the first of `path.1`, `path.2`, ... that does not exist."""
    candidates = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, 10_000))]
    return next(candidate for candidate in candidates if not candidate.exists())
