"""The command line: `python -m nanogpt.huggingface export|import`."""

import sys
from collections.abc import Callable
from pathlib import Path

import tyro

from nanogpt.cli.door import guarded
from nanogpt.huggingface import export_run, import_folder


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 for bad input."""
    return guarded(run, arguments)


def run(arguments: list[str]) -> int:
    """Run the subcommand that the arguments name. Raises InputError for bad input."""
    commands: dict[str, Callable[..., Path]] = {"export": export_run, "import": import_folder}
    prog = "python -m nanogpt.huggingface"
    made = tyro.extras.subcommand_cli_from_dict(commands, prog=prog, args=arguments, use_underscores=True)
    print(f"Wrote {made}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
