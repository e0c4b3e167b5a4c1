"""The README and the docs are true: their examples run, their files and links exist, they quote exactly."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpt.config import ModelConfig
from nanogpt.weights import count_parameters
from parity_tests.diff import hunks, lines_of, sources
from tests.conftest import Train

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
README = TEXTS["README.md"]


@pytest.mark.parametrize(("page", "count"), [("README.md", 1), ("docs/python.md", 3)])
def test_the_python_examples_run(train: Train, tmp_path: Path, page: str, count: int) -> None:
    examples = re.findall(r"```python\n(.*?)```", TEXTS[page], flags=re.S)
    assert len(examples) == count
    assert train("out/quick", "--backend=torch", "--quiet") == 0
    code = "\n".join(examples)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\nROMEO: " in done.stdout


def test_the_file_tree_names_every_file_and_room() -> None:
    (tree,) = re.findall(r"```\n(train\.py.*?)```", README, flags=re.S)
    words = set(re.findall(r"[\w.]+", tree))
    rooms = {file.parent.name for file in ROOT.glob("nanogpt/*/*.py")}
    core = {file.stem for file in ROOT.glob("nanogpt/*.py")} - {"__init__", "errors", "version"}
    others = {file.name for place in (".", "nanogpt_jax") for file in (ROOT / place).glob("*.py")}
    assert rooms | core | (others - {"__init__.py", "conftest.py"}) <= words
    for name in words & {word for word in words if word.endswith(".py")}:
        assert list(ROOT.glob(f"**/{name}")), name


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_files(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXTS[page]):
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", TEXTS)
def test_no_command_is_broken_between_lines(page: str) -> None:
    """Else tests/test_commands.py would not find it."""
    text = re.sub(r"```.*?```", "", TEXTS[page], flags=re.S)
    assert re.findall(r"`(?:python|pytest|bash|pip|nanogpt|torchrun)(?: [^`\n]*)?\n", text) == []


def test_the_folder_of_a_run_is_as_it_is_shown(finished_run: Path) -> None:
    (listing,) = re.findall(r"\nout/shakespeare/\n(.*?)```", TEXTS["docs/runs.md"], flags=re.S)
    named = re.findall(r"^    ([\w.]+)/? ", listing, flags=re.M)
    assert sorted(named) == sorted(file.name for file in finished_run.iterdir())


def test_numbers_that_follow_from_the_code_are_true() -> None:
    same, total = re.findall(r"(\d+) of (\d+) statements are the same", README.replace("\n", " "))[0]
    differing = sum(len(hunk.jax) for hunk in hunks(*sources("model")))
    lines = len(list(lines_of(sources("model")[0])))
    assert (int(same), int(total)) == (lines - differing, lines)
    assert f"{count_parameters(ModelConfig()):,} parameters" in README.replace("\n", " ")


def test_the_twin_rows_quote_the_twins() -> None:
    form = r"^\| [\w ]+ \| `([^|]*)` \| (?:`([^|]*)`|the same line) \|$"
    rows = re.findall(form, README, flags=re.M)
    assert len(rows) >= 5
    for quotes in rows:
        jax, torch = quotes[0], quotes[1] or quotes[0]
        for quote, source in zip((jax, torch), sources("model"), strict=True):
            # However the lines are broken.
            for part in re.sub(r"\s", "", quote).split("..."):
                assert part.strip(",)") in re.sub(r"\s", "", source), quote
