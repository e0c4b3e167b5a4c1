from collections.abc import Iterator
from typing import Any, get_args

import pytest

from parity_tests.devices import Device
from parity_tests.report import Report
from parity_tests.tolerances import TOLERANCES

REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=get_args(Device), help="where the twins compute")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()
    config.pluginmanager.register(Collector(config.stash[REPORT]))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--device")


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    return request.config.stash[REPORT]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Give what a worker of pytest-xdist has measured to the process that prints it."""
    if hasattr(session.config, "workeroutput"):
        report = session.config.stash[REPORT]
        session.config.workeroutput["parity"] = ([*report.largest.items()], report.notes)


class Collector:
    """Takes what the workers of pytest-xdist have measured."""

    def __init__(self, report: Report) -> None:
        self.report = report

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        largest, notes = node.workeroutput.get("parity", ([], []))
        self.report.add({tuple(key): tuple(error) for key, error in largest})
        self.report.notes += notes


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    report = config.stash[REPORT]
    if not report.largest:
        return
    terminalreporter.section(f"parity of nanogpt_jax and nanogpt_torch on {config.getoption('--device')}")
    line = "{:<26} {:>12} {:>12} {:>10}  {}"
    head = ("largest error of", "fast kernels", "plain", "tolerance", "where")
    terminalreporter.write_line(line.format(*head))
    for quantity, tolerance in TOLERANCES.items():
        errors = [report.largest.get((quantity, kernels)) for kernels in ("fast", "plain")]
        if any(errors):
            shown = [f"{error[0]:.1e}" if error else "" for error in errors]
            where = max(filter(None, errors))[1]
            terminalreporter.write_line(line.format(quantity, *shown, f"{tolerance.error:.0e}", where))
    for note in report.notes:
        terminalreporter.write_line(note)
