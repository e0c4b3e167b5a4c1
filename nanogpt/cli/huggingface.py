"""`nanogpt export` and `nanogpt import`: folders of Hugging Face's transformers."""

from nanogpt.cli.door import command, guarded, parse
from nanogpt.cli.flags import ExportFlags, ImportFlags
from nanogpt.huggingface import export_run, import_folder


def export_main(arguments: list[str] | None = None) -> int:
    """`nanogpt export`. Returns its exit code: 0, or 2 for bad input."""
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
