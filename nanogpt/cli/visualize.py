"""`visualize.py` and `nanogpt export page`: the page of a model, with a report on its heads and without."""

import os
from pathlib import Path
from typing import Any

from nanogpt.cli.door import command, given_text, guarded, parse, tell
from nanogpt.cli.flags import ExportPageFlags, VisualizeFlags
from nanogpt.errors import InputError
from nanogpt.files import write_atomically


def visualize_main(arguments: list[str] | None = None) -> int:
    """`visualize.py`. Returns its exit code: 0, or 2 for bad input."""
    return guarded(_visualize, arguments)


def export_page_main(arguments: list[str]) -> int:
    """`nanogpt export page`. Returns its exit code: 0, or 2 for bad input."""
    return guarded(_export_page, arguments)


def _visualize(arguments: list[str]) -> int:
    flags = parse(VisualizeFlags, arguments, prog=command("visualize"))
    return _write(flags, "Attention", compare=flags.compare, live=flags.live, report=True)


def _export_page(arguments: list[str]) -> int:
    flags = parse(ExportPageFlags, arguments, prog=command("export page"))
    return _write(flags, "A model", compare=None, live=True, report=False)


def _write(flags: VisualizeFlags | ExportPageFlags, name: str, **options: Any) -> int:
    """Write the page that the flags ask for; `options` are those of `contents`."""
    # The page takes the place of a file: of the one that a link leads to, and never of a device.
    file = Path(os.path.realpath(flags.html))
    if (flags.html.exists() and not flags.html.is_file()) or not file.parent.is_dir():
        raise InputError(f"--html {flags.html} must be a file in a folder that is there")
    text = None if flags.text is None else given_text(flags.text)
    out_dir, model = flags.model.load()
    # Imported here, so that bad input is told without waiting for them.
    import webbrowser

    from nanogpt.page.contents import contents
    from nanogpt.page.document import page

    figures = contents(out_dir, model, text=text, device=flags.model.device, tell=tell, **options)
    write_atomically(file, page(figures, title=f"{name}: {figures['facts']}"))
    tell(f"Wrote {flags.html}, {file.stat().st_size / 1e6:.2f} MB: open it in a browser, no network needed")
    if flags.open:
        webbrowser.open(file.as_uri())
    return 0
