"""The common part of the front doors: flags, errors told in a line, the newest run."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tyro

from nanogpt.errors import InputError
from nanogpt.text.corpus import decode_text, read_text

Flags = TypeVar("Flags")


def guarded(main: Callable[[list[str]], int], arguments: list[str] | None) -> int:
    """Run a front door on `arguments`, or on those of the command line. Returns its exit code.

    That is 2 for bad input, which is told in one line without a traceback, and 1 for an error of the system.
    """
    try:
        return main(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        tell(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has left. Nothing more can be written there, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a full disk, a folder that may not be written to
        tell(f"error: {error}")
        return 1


def parse(kind: type[Flags], arguments: list[str], **options: Any) -> Any:
    """The flags of a dataclass, by tyro, which has more `options`."""
    # nanoGPT's --bias=True and --compile=False beside tyro's --bias and --no-compile.
    arguments = [re.sub(r"^--([\w-]+)=True$", r"--\1", argument) for argument in arguments]
    arguments = [re.sub(r"^--([\w-]+)=False$", r"--no-\1", argument) for argument in arguments]
    config = (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(kind, args=arguments, use_underscores=True, config=config, **options)


def tell(text: str) -> None:
    """Print on standard error."""
    print(text, file=sys.stderr, flush=True)


def given_text(text: str) -> str:
    """A text as flags give it: itself, the file of `@file`, or standard input for `-`."""
    if text == "-":
        return decode_text(sys.stdin.buffer.read(), "standard input")
    return read_text(Path(text[1:])) if text.startswith("@") else text


def newest_run(parent: Path) -> Path:
    """The folder under `parent` with the newest checkpoints. Raises InputError where there is none."""
    runs = [folder.parent for folder in parent.glob("*/checkpoints") if any(folder.iterdir())]
    if not runs:
        raise InputError(
            f"there is no run under {parent}/: train one with train.py, or name it with --out_dir"
        )
    return max(runs, key=lambda run: (run / "checkpoints").stat().st_mtime)
