"""The paths among the flags: an empty one would mean the working folder, which nobody asked for."""

import errno
import os
from pathlib import Path

from tyro.constructors import PrimitiveConstructorSpec


def _named(arguments: list[str]) -> Path:
    (path,) = arguments
    if not path or "\0" in path:
        raise ValueError(f"{path!r} names no file or folder")
    if any("\ud800" <= character <= "\udfff" for character in path):
        raise ValueError(f"{path!a} is no text in this system's encoding: rename it, or set PYTHONUTF8=1")
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"{path[:40]}... is too long for the name of a file") from None
    return Path(path)


PATH: PrimitiveConstructorSpec[Path | None] = PrimitiveConstructorSpec(
    nargs=1,
    metavar="PATH",
    instance_from_str=_named,
    is_instance=lambda value: value is None or isinstance(value, Path),
    str_from_instance=lambda path: [str(path)],
)
"""How tyro reads a path: `out_dir: Annotated[Path, PATH]`."""
