"""docs/notebook.ipynb runs from its first cell to its last, and shows what it promises."""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs/notebook.ipynb"


def test_the_notebook_holds_no_output() -> None:
    cells = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT).cells
    assert not any(cell.get("outputs") for cell in cells)


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # of Jupyter's own
def test_every_cell_runs(text_file: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    training, text, numbers, picture = (cell for cell in notebook.cells if cell.cell_type == "code")
    training.source = training.source.replace('"quick"', f'"quick", backend="torch", data="{text_file}"')
    # The text of the tests has fewer characters than Shakespeare.
    numbers.source = re.sub(r"encode\(.*\)", 'encode("night, ")', numbers.source)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    curve, *told = training.outputs
    assert "<svg" in curve.data["text/html"]
    assert "step 100" in curve.data["text/html"]
    assert "validation" in curve.data["text/html"]
    assert "parameters on text.txt<" in curve.data["text/html"]
    lines = "".join(output.text for output in told).splitlines()
    assert lines[0].startswith("Training ")
    assert [line.split()[1] for line in lines if line.startswith("step ")] == ["0", "50", "100"]
    assert "\x1b" not in "".join(lines)
    assert text.outputs[0].text.startswith("ROMEO: ")
    assert numbers.outputs[0].text.startswith("(1, 7, ")
    assert "image/png" in picture.outputs[-1].data
