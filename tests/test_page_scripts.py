"""The page's scripts are modules: each says what it takes from earlier ones, and shares nothing else."""

import re
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from nanogpt.page import document
from tests.browser import needs_browser
from tests.conftest import ROOT

pytest_plugins = ["tests.browser_fixtures"]

FOLDER = ROOT / "nanogpt" / "page"
NAMES = {file.stem for file in FOLDER.glob("*.js")}


def imports(name: str) -> list[tuple[str, str]]:
    """Each script and name that a script imports."""
    source = (FOLDER / f"{name}.js").read_text(encoding="utf-8")
    statements = re.findall(r'^import {(.*?)} from "./(.*?).js";$', source, re.MULTILINE | re.DOTALL)
    assert len(statements) == len(re.findall(r"^\s*import\b|\bimport\(", source, re.MULTILINE))
    return [(other, wanted) for names, other in statements for wanted in re.findall(r"\w+", names)]


def test_every_script_has_its_place() -> None:
    assert {*document.SCRIPTS, *document.WORKER} == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_script_takes_what_earlier_ones_export_and_uses_it(name: str) -> None:
    source = (FOLDER / f"{name}.js").read_text(encoding="utf-8")
    for other, wanted in imports(name):
        for order in (document.SCRIPTS, document.WORKER):
            assert name not in order or order.index(other) < order.index(name)
        exporting = (FOLDER / f"{other}.js").read_text(encoding="utf-8")
        assert re.search(rf"^export \w.*\b{wanted}\b", exporting, re.MULTILINE)
        assert len(re.findall(rf"\b{wanted}\b", source)) > 1, wanted


def test_the_script_of_the_model_has_the_names_of_the_twins_in_their_order() -> None:
    twin = (ROOT / "nanogpt_torch" / "model.py").read_text(encoding="utf-8")
    script = (FOLDER / "model.js").read_text(encoding="utf-8")
    names = re.findall(r"^ *(?:class|def) (\w+)", twin, re.MULTILINE)
    found = re.findall(r"^(?:(?:export )?(?:class|function) |  )(\w+)(?: {|\(.*\) {)$", script, re.MULTILINE)
    snake = [name if name[0].isupper() else re.sub("[A-Z]", r"_\g<0>", name).lower() for name in found]
    snake = [name for name in snake if name not in ("constructor", "for")]
    assert {*snake} - {*names} == {"Cache", "extend", "product"}
    shared = [name for name in snake if name in names]
    assert len(shared) > 12
    rest = iter(names)
    assert all(name in rest for name in shared), shared


@needs_browser
def test_scripts_share_only_what_is_exported(
    browser: Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first.js").write_text(
        "const hidden = 1;\nexport const { a, b } = { a: 2, b: 3 };\n"
        "export class Sum {\n  of(x) {\n    return a + x;\n  }\n}\n"
    )
    (tmp_path / "second.js").write_text(
        'import {\n  a, Sum,\n} from "./first.js";\n'
        'document.title = [a, new Sum().of(4), typeof b, typeof hidden].join(" ");\n'
    )
    monkeypatch.setattr(document, "_FOLDER", tmp_path)
    browser.execute_script(document.bundle(["first", "second"]))
    assert browser.title == "2 6 undefined undefined"
