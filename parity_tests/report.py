"""Errors between the twins: compared with the table of tolerances, and remembered for the printed table."""

from typing import Any, Literal

import numpy as np

from parity_tests.tolerances import TOLERANCES

KernelsName = Literal["fast", "plain"]


def relative_error(actual: Any, expected: Any) -> float:
    """max |actual - expected| / max |expected|: relative to the size of the tensor."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape} is not {expected.shape}"
    return float(np.abs(actual - expected).max() / (np.abs(expected).max() or 1.0))


class Report:
    """Compares, remembers the largest error of each quantity, and fails where one is above its tolerance.

    Errors of models built of plain kernels, the definitions, are kept apart from those of the fast ones.
    """

    def __init__(self) -> None:
        self.largest: dict[tuple[str, str], tuple[float, str]] = {}
        self.notes: list[str] = []

    def compare(
        self, quantity: str, label: str, actual: Any, expected: Any, kernels: KernelsName = "fast"
    ) -> None:
        error = relative_error(actual, expected)
        self.add({(quantity, kernels): (error, label)})
        tolerance = TOLERANCES[quantity].error
        assert error <= tolerance, f"{quantity}, {label}: error {error:.2e}, tolerance {tolerance:.0e}"

    def add(self, largest: dict[tuple[str, str], tuple[float, str]]) -> None:
        """Remember errors that are larger than those known."""
        for key, error in largest.items():
            self.largest[key] = max(self.largest.get(key, error), error)
