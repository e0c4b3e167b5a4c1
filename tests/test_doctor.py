"""The doctor gives a verdict where it measured everything, and else says why there is none."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from parity_tests.doctor import Outcome, doctor_main
from parity_tests.tolerances import MEASURED
from tests.conftest import ROOT
from tests.sources import imported

ONE_QUANTITY = "test_head_outputs_equal_the_reference"


def doctor(folder: Path, *flags: str, pytest_options: str, path: Path = ROOT) -> tuple[int, str]:
    """The exit code and the output of the doctor in a folder, with further options for its pytest."""
    environment = os.environ | {"PYTEST_ADDOPTS": pytest_options, "PYTHONPATH": f"{path}{os.pathsep}{folder}"}
    done = subprocess.run(
        [sys.executable, "-m", "parity_tests", *flags],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def last_line(output: str) -> str:
    return output.splitlines()[-1]


def test_help_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        doctor_main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert all(flag in out for flag in ("--device {cpu,cuda,mps}", "--thorough"))
    assert "verdict:" not in out
    assert "pytest" not in out


def test_a_device_that_there_is_nowhere_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        doctor_main(["--device=nonsense"])
    assert end.value.code == 2
    told = capsys.readouterr()
    assert "nonsense" in told.err
    assert told.out == ""


@pytest.mark.parametrize(("device", "backend"), [("cuda", "jax"), ("mps", "torch")])
def test_a_device_that_is_not_here_gets_one_line(
    device: str, backend: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # which the doctor sets
    monkeypatch.setattr("nanogpt_jax.backend.Backend.devices", lambda: ["cpu"])
    monkeypatch.setattr("nanogpt_torch.backend.Backend.devices", lambda: ["cpu"])
    assert doctor_main([f"--device={device}"]) == 2
    assert capsys.readouterr() == ("", f"error: {backend} finds no device '{device}' here; it has cpu\n")


def test_a_missing_package_gets_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert doctor_main([]) == 2
    told = 'error: the doctor needs pytest and hypothesis: pip install -c constraints.txt -e ".[doctor]"\n'
    assert capsys.readouterr() == ("", told)


def outcome(*, lacks: tuple[str, str] | None = None, differs: bool = False) -> Outcome:
    found = Outcome()
    found.measured, found.differs = dict.fromkeys(MEASURED - {lacks}, (0.0, "")), differs
    return found


@pytest.mark.parametrize("missing", sorted(MEASURED))
def test_a_verdict_needs_every_quantity(missing: tuple[str, str]) -> None:
    quantity, kernels = missing
    told = f"no verdict: not measured here: {quantity} ({kernels})"
    assert outcome(lacks=missing).verdict(0) == (3, told)


@pytest.mark.parametrize(
    ("code", "differs", "expected", "told"),
    [
        (0, False, 0, "verdict: the twins agree here"),
        (1, True, 1, "verdict: the twins DIFFER here"),
        (1, False, 3, "no verdict: tests ended in an error"),
        (2, True, 3, "no verdict: the tests were interrupted"),
        (3, False, 3, "no verdict: the tests could not be run"),
        (5, False, 3, "no verdict: the tests could not be run"),
    ],
    ids=["passed", "failed", "errors", "interrupted", "internal error", "no tests"],
)
def test_a_verdict_is_what_the_tests_allow(code: int, differs: bool, expected: int, told: str) -> None:
    given, verdict = outcome(differs=differs).verdict(code)
    assert given == expected
    assert verdict.startswith(told)


# Modules that change the suite of the doctor, as plugins of its pytest.
UNEQUAL = """
from parity_tests.tolerances import TOLERANCES, Tolerance
TOLERANCES["head outputs"] = Tolerance(0.0, "made to fail")
"""
BROKEN = """
from nanogpt_torch.backend import Backend
def fail(*_):
    raise RuntimeError("out of memory")
Backend.head_outputs = fail
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("plugin", "expected", "told"),
    [
        (UNEQUAL, 1, "verdict: the twins DIFFER here, see above"),
        (BROKEN, 3, "no verdict: tests ended in an error, see above"),
        ("", 3, "no verdict: not measured here: AdamW: moments (fast); AdamW: weights (fast)"),
    ],
    ids=["differs", "breaks", "lacks"],
)
def test_the_suite_decides(plugin: str, expected: int, told: str, tmp_path: Path) -> None:
    (tmp_path / "changed.py").write_text(plugin)
    code, output = doctor(tmp_path, pytest_options=f"-p changed -k {ONE_QUANTITY}")
    assert code == expected, output
    assert last_line(output).startswith(told)
    assert "head outputs  " in output


def test_the_suite_needs_nothing_that_is_not_installed() -> None:
    for file in (ROOT / "parity_tests").glob("*.py"):
        names = {name.split(".")[0] for name in imported(file.read_text("utf-8"), everywhere=True)}
        assert not names & {"tests", "benchmarks", "transformers", "conftest"}, file


@pytest.mark.long
def test_the_doctor_runs_where_it_is_installed(tmp_path: Path) -> None:
    """From a wheel, in a folder with settings of pytest that would end it."""
    source, site, elsewhere = (tmp_path / name for name in ("source", "site", "elsewhere"))
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "out", "build", "*.egg-info"))
    major = int(importlib.metadata.version("setuptools").split(".")[0])
    isolation = ["--no-build-isolation"] if major >= 77 else []
    pip = [sys.executable, "-m", "pip", "-q", "install", "--no-deps", "-t", site]
    subprocess.run([*pip, *isolation, source], check=True)
    elsewhere.mkdir()
    (elsewhere / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (elsewhere / "conftest.py").write_text("raise SystemExit('not mine')")
    options = f"-k '{ONE_QUANTITY} or test_structure'"
    code, output = doctor(elsewhere, "--thorough", pytest_options=options, path=site)
    assert code == 3, output
    assert last_line(output).startswith("no verdict: not measured here: AdamW")
    assert "head outputs  " in output
    assert " passed" in output
    assert not list(elsewhere.glob("*cache*"))
