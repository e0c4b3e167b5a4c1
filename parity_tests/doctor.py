"""The doctor: is a device of this machine fit for both twins?

    nanogpt doctor --device cuda

It runs the parity suite from wherever it is installed, and takes nothing from the working folder.
"""

import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nanogpt.choice import find_device, load_backend
from nanogpt.cli.door import command, guarded, parse
from nanogpt.errors import InputError
from parity_tests.devices import Device, device_of
from parity_tests.report import Report
from parity_tests.tolerances import MEASURED

SUITE = Path(__file__).parent
NO_VERDICT = 3
LIBRARIES = ("jax", "flax", "optax", "torch", "numpy")
TEST_PACKAGES = ("pytest", "hypothesis")


@dataclass(frozen=True)
class DoctorFlags:
    """Compare the twins on a device, with each other and with float64. Exits with 0 where they agree, 1 where
    they differ, 2 for bad input, and 3 where the tests allow no verdict."""

    device: Device = "cpu"
    """Where the twins compute; for mps jax computes on the CPU."""
    thorough: bool = False
    """Also run the tests of many minutes, and those that no device should change."""
    debug: bool = False
    """Show the traceback of an error."""


class Outcome:
    """As a plugin of pytest: what the suite measured, and whether a comparison failed."""

    def __init__(self) -> None:
        self.measured = Report().largest
        self.differs = False

    def pytest_exception_interact(self, call: Any) -> None:
        self.differs |= isinstance(call.excinfo.value, AssertionError)

    def pytest_sessionfinish(self, session: Any) -> None:
        from parity_tests.conftest import REPORT

        self.measured = session.config.stash[REPORT].largest

    def verdict(self, code: int) -> tuple[int, str]:
        """The exit code and the verdict for an exit code of pytest."""
        if code == 1 and self.differs:
            return 1, "verdict: the twins DIFFER here, see above"
        if code:
            reasons = {1: "tests ended in an error, see above", 2: "the tests were interrupted, see above"}
            return NO_VERDICT, f"no verdict: {reasons.get(code, 'the tests could not be run, see above')}"
        if missing := [f"{quantity} ({kernels})" for quantity, kernels in MEASURED - self.measured.keys()]:
            return NO_VERDICT, f"no verdict: not measured here: {'; '.join(sorted(missing))}"
        return 0, "verdict: the twins agree here"


def doctor_main(arguments: list[str] | None = None) -> int:
    """`nanogpt doctor`. Returns its exit code (DoctorFlags)."""
    return guarded(_doctor, arguments)


def _doctor(arguments: list[str]) -> int:
    flags = parse(DoctorFlags, arguments, prog=command("doctor"))
    if missing := [name for name in TEST_PACKAGES if not importlib.util.find_spec(name)]:
        raise InputError(
            f'the doctor needs {" and ".join(missing)}: pip install -c constraints.txt -e ".[doctor]"'
        )
    with TemporaryDirectory(prefix="nanogpt-doctor-", ignore_cleanup_errors=True) as compiled:
        # Every program is compiled here and now. jax reads this when it is imported.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
        for backend in ("jax", "torch"):
            find_device(load_backend(backend), device_of(backend, flags.device))
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
        print(f"{platform.platform()}, Python {platform.python_version()}, {versions}", flush=True)
        code, verdict = _run_suite(flags)
    print(verdict)
    return code


def _run_suite(flags: DoctorFlags) -> tuple[int, str]:
    import pytest

    outcome = Outcome()
    left_out = ["slow", "repository"] if flags.thorough else ["slow", "repository", "thorough"]
    options = {
        "-c": os.devnull,  # no settings of the working folder, and no plugins that happen to be installed
        "--rootdir": str(SUITE),
        "--confcutdir": str(SUITE),
        "-o": "markers=slow\nlong\nthorough\nrepository",
        "-W": "error",
        "-p": "no:cacheprovider",
        "-m": " and ".join(f"not {marker}" for marker in left_out),
        "--device": flags.device,
    }
    words = [word for option in options.items() for word in option]
    code = pytest.main([str(SUITE), "-q", "--disable-plugin-autoload", *words], plugins=[outcome])
    return outcome.verdict(int(code))
