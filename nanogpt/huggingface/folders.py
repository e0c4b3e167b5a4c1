"""Read from a folder, and write a folder whole or not at all."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanogpt.errors import InputError, told_in_a_line


def required_file(folder: Path, name: str) -> Path:
    """The file `name` of a folder. Raises InputError if it is missing or was split into parts."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    if (folder / f"{name}.index.json").is_file():
        raise InputError(f"{folder} holds {name} in parts: save it with a larger max_shard_size")
    if not (folder / name).is_file():
        raise InputError(f"{folder} holds no {name}")
    return folder / name


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """A temporary folder to write into. It is renamed to `path` at the end, and removed if writing fails.

    Raises InputError if `path` is a file or a folder that is not empty, or can't be written.
    """
    folder = Path(path).expanduser().resolve()
    with told_in_a_line(f"{folder} can't be written"):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists already: name another folder, or empty it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            part = Path(temporary) / folder.name
            part.mkdir()
            yield part
            part.rename(folder)


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write `values` as indented JSON."""
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
