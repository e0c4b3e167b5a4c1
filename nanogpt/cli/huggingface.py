"""`nanogpt export` and `nanogpt import`: folders of Hugging Face's transformers, and a page."""

import sys

from nanogpt.cli.door import command, guarded, parse
from nanogpt.cli.flags import ExportFlags, ImportFlags
from nanogpt.cli.visualize import export_page_main
from nanogpt.huggingface import export_run, import_folder


def export_main(arguments: list[str] | None = None) -> int:
    """`nanogpt export`. Returns its exit code: 0, or 2 for bad input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["page"]:
        return export_page_main(arguments[1:])
    return guarded(_export, arguments)


def import_main(arguments: list[str] | None = None) -> int:
    """`nanogpt import`. Returns its exit code: 0, or 2 for bad input."""
    return guarded(_import, arguments)


def _export(arguments: list[str]) -> int:
    flags = parse(ExportFlags, arguments, prog=command("export"))
    print(f"Wrote {export_run(flags.out_dir, flags.folder, flags.checkpoint)}")
    return 0


def _import(arguments: list[str]) -> int:
    flags = parse(ImportFlags, arguments, prog=command("import"))
    print(f"Wrote {import_folder(flags.folder, flags.out_dir)}")
    return 0
