"""Folders that are read file by file, and folders that are whole or not there."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanogpt.errors import InputError, told_in_a_line


def existing(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    if (folder / f"{name}.index.json").is_file():
        raise InputError(f"{folder} holds {name} in parts: save it with a larger max_shard_size")
    if not (folder / name).is_file():
        raise InputError(f"{folder} holds no {name}")
    return folder / name


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """A folder to write into, which takes its place when all is written and is gone if that fails."""
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
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
