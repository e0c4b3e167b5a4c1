"""Files that are whole, or not there: replaced at once, or written line by line."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


def write_atomically(file: Path, text: str) -> None:
    """Replace a file whole, so that nobody ever reads half of it."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


class JsonLines:
    """A file with one JSON object a line. Each object has a step, and every step stands in it once."""

    def __init__(self, file: Path, last_step: int, check: Callable[[dict[str, Any]], object]) -> None:
        """Keep the lines up to `last_step`: the later steps are about to be measured again.

        If lines are damaged, a copy of the file is kept beside it, and a line on standard error says so.
        """
        self._file = file
        lines, damaged = read_lines(file, check)
        if damaged:
            copy = shutil.copy(file, free_name(file.with_name(f"damaged-{file.name}")))
            numbers = ", ".join(map(str, damaged))
            print(f"{file} is damaged in line {numbers}: a copy of it is kept as {copy}", file=sys.stderr)
        self.lines = [line for line in lines if line["step"] <= last_step]
        write_atomically(file, "".join(json.dumps(line) + "\n" for line in self.lines))

    def append(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        with self._file.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line) + "\n")


def read_lines(
    file: Path, check: Callable[[dict[str, Any]], object]
) -> tuple[list[dict[str, Any]], list[int]]:
    """The objects of a file of JSON lines, and the numbers of the lines that are damaged.

    `check` raises an exception for an object that is not as it was written. A last line without an end was
    cut short by a kill: it counts as neither.
    """
    *lines, _ = file.read_bytes().split(b"\n") if file.exists() else [b""]
    objects, damaged = [], []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line.decode("utf-8"), parse_constant=_refuse)
            check(value)
            objects.append(value)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            damaged.append(number)
    return objects, damaged


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def free_name(path: Path) -> Path:
    """`path`, or the first of `path.1`, `path.2`, ... that does not exist."""
    candidates = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, 10_000))]
    return next(candidate for candidate in candidates if not candidate.exists())
