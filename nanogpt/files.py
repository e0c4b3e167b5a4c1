"""Files that are whole, or not there: replaced at once, or written line by line."""

import json
import os
from pathlib import Path
from typing import Any


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

    def __init__(self, file: Path, last_step: int) -> None:
        """Keep the lines up to `last_step`: the later steps are about to be measured again."""
        self._file = file
        self.lines = [line for line in read_lines(file) if line["step"] <= last_step]
        write_atomically(file, "".join(json.dumps(line) + "\n" for line in self.lines))

    def append(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        with self._file.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line) + "\n")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, without a last line that was cut short; none without a file."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def free_name(path: Path) -> Path:
    """`path`, or the first of `path.1`, `path.2`, ... that does not exist."""
    candidates = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, 10_000))]
    return next(candidate for candidate in candidates if not candidate.exists())
