"""What the README shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

from nanogpt.config import ModelConfig
from nanogpt.weights import count_parameters
from tests.conftest import Train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run(train: Train, tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(examples) >= 3
    assert train("out/quick", "--backend=torch", "--quiet") == 0
    code = "\n".join(examples)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ROMEO: ")


def test_every_flag_that_is_named_exists() -> None:
    help_text = " ".join(
        subprocess.run([sys.executable, *door, "--help"], cwd=ROOT, capture_output=True, text=True).stdout
        for door in (
            *(["train.py"], ["sample.py"], ["visualize.py"]),
            *(["-m", "benchmarks"], ["-m", "parity_tests.curves"]),
            *(["-m", "nanogpt.huggingface", command] for command in ("export", "import")),
        )
    )
    for flag in set(re.findall(r"(?<![\w-])--[a-z_]+", README)):
        assert flag in help_text, flag


def test_the_file_tree_names_every_file() -> None:
    tree = re.search(r"## Where things are\n\n```\n(.*?)```", README, flags=re.S)
    assert tree
    for file in [*ROOT.glob("*.py"), *ROOT.glob("nanogpt*/*.py")]:
        if file.name not in ("__init__.py", "conftest.py", "errors.py", "version.py"):
            assert file.name in tree[1], file
    for name in re.findall(r"\w+\.py", tree[1]):
        assert list(ROOT.glob(f"**/{name}")), name


def test_the_folder_of_a_run_is_as_it_is_shown(finished_run: Path) -> None:
    listing = re.search(r"\nout/shakespeare/\n(.*?)```", README, flags=re.S)
    assert listing
    named = re.findall(r"^    ([\w.]+)/? ", listing[1], flags=re.M)
    assert sorted(named) == sorted(file.name for file in finished_run.iterdir())


def test_the_number_of_parameters_is_true() -> None:
    assert f"{count_parameters(ModelConfig()):,} parameters" in README
