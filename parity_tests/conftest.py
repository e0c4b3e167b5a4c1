from collections.abc import Iterator

import pytest

from parity_tests.tolerances import TOLERANCES
from parity_tests.twins import Report

REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", choices=["cpu", "cuda", "mps"], help="where the twins compute"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--device")


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    return request.config.stash[REPORT]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    largest = config.stash[REPORT].largest
    if not largest:
        return
    device = config.getoption("--device")
    terminalreporter.section(f"parity of nanogpt_jax and nanogpt_torch on {device}")
    terminalreporter.write_line(f"{'quantity':<28} {'largest error':>13}  {'tolerance':>9}  where")
    for quantity, tolerance in TOLERANCES.items():
        if quantity in largest:
            error, label = largest[quantity]
            terminalreporter.write_line(f"{quantity:<28} {error:>13.1e}  {tolerance.error:>9.0e}  {label}")
    for note in config.stash[REPORT].notes:
        terminalreporter.write_line(note)
