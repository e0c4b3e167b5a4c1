"""`nanogpt COMMAND` in its three forms, whose hints name the form that was used."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpt.__main__ import COMMANDS
from nanogpt.cli.door import command
from tests.conftest import ROOT, tiny_flags

FORMS = {
    "nanogpt": [str(Path(sys.executable).with_name("nanogpt"))],
    "python -m nanogpt": [sys.executable, "-m", "nanogpt"],
}


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("form", FORMS)
def test_the_help_names_every_command(form: str, tmp_path: Path) -> None:
    for words in ([], ["--help"]):
        done = run([*FORMS[form], *words], tmp_path)
        assert done.returncode == 0
        assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def test_an_unknown_command_gets_one_line(tmp_path: Path) -> None:
    done = run([*FORMS["nanogpt"], "trian"], tmp_path)
    told = "error: there is no command 'trian': is it train?\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("train.py", "python sample.py"),
        ("/usr/bin/nanogpt", "nanogpt sample"),
        ("nanogpt.exe", "nanogpt sample"),
        ("/somewhere/nanogpt/__main__.py", "python -m nanogpt sample"),
        ("/somewhere/benchmarks/__main__.py", "python sample.py"),
    ],
)
def test_a_hint_has_the_form_that_was_used(
    program: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    assert command("sample") == expected


@pytest.mark.long
@pytest.mark.parametrize("form", [*FORMS, "python"])
def test_a_hint_is_a_command_that_works(form: str, text_file: Path, tmp_path: Path) -> None:
    words = FORMS.get(form, [sys.executable])
    train = [str(ROOT / "train.py")] if form == "python" else ["train"]
    done = run([*words, *train, *tiny_flags(text_file), "--backend=torch", "--out_dir=a run"], tmp_path)
    assert done.returncode == 0, done.stderr
    hint = shlex.split(done.stdout.splitlines()[-1].partition("To read what it writes: ")[2])
    expected = ["python", "sample.py"] if form == "python" else [*form.split(), "sample"]
    assert hint == [*expected, "--out_dir", "a run"]
    sample = [str(ROOT / "sample.py")] if form == "python" else ["sample"]
    done = run([*words, *sample, *hint[len(expected) :], "--max_tokens=5"], tmp_path)
    assert (done.returncode, len(done.stdout)) == (0, 7)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_has_a_line_of_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nanogpt"])
    module, _, function = COMMANDS[name][0].partition(":")
    with pytest.raises(SystemExit) as end:
        getattr(importlib.import_module(module), function)(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: nanogpt {name} ")
    assert "Raises" not in shown
    options = re.split(r"\n\W --(?=\w)", shown)[1:]
    assert len(options) >= 3
    for option in options:
        words = re.sub(r"\((default|required).*|[│|]", "", option, flags=re.S).split()
        assert len([word for word in words if not word.isupper() and "{" not in word]) > 3, option
