"""The common part of the front doors: flags, errors told in a line, the newest run."""

import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tyro

from nanogpt.cli.habits import refuse_foreign
from nanogpt.errors import InputError, first_line
from nanogpt.text.corpus import read_stream, read_text

Flags = TypeVar("Flags")


def guarded(main: Callable[[list[str]], int], arguments: list[str] | None) -> int:
    """Run a front door on `arguments`, or on those of the command line. Returns its exit code.

    That is 2 for bad input and 1 for any other error. Both are told in a line; --debug shows the traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an encoding may lack a character
    try:
        return main([argument for argument in arguments if argument != "--debug"])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has left. Nothing more can be written there, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if "--debug" in arguments:
            raise
        if isinstance(error, InputError):
            tell(f"error: {error}")
            return 2
        # A full disk, a folder that may not be written to, a mistake of ours.
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        tell(f"error: {kind}{first_line(error)} (--debug shows where)")
        return 1


def command(name: str) -> str:
    """The words that run a command of ours, in the form in which this process was started."""
    program = Path(sys.argv[0])
    if program.parts[-2:] == ("nanogpt", "__main__.py"):
        return f"python -m nanogpt {name}"
    has_script = name in ("train", "sample", "visualize") and program.stem != "nanogpt"
    return f"python {name}.py" if has_script else f"nanogpt {name}"


def parse(kind: type[Flags], arguments: list[str], *, takes_files: bool = False, **options: Any) -> Any:
    """The flags of a dataclass, by tyro, which has more `options`.

    Raises InputError for flags of nanoGPT's, and for files of Python, unless the command `takes_files`.
    """
    if not takes_files:
        refuse_foreign(arguments)
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
        return read_stream(sys.stdin.buffer, "standard input")
    return read_text(Path(text[1:])) if text.startswith("@") and len(text) > 1 else text


def newest_run(parent: Path) -> Path:
    """The folder under `parent` with the newest checkpoints. Raises InputError where there is none."""
    runs = [folder.parent for folder in parent.glob("*/checkpoints") if any(folder.iterdir())]
    if not runs:
        raise InputError(
            f"there is no run under {parent}/: train one with `{command('train')}`, or name it with --out_dir"
        )
    return max(runs, key=lambda run: (run / "checkpoints").stat().st_mtime)
