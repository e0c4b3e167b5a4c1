"""Fixtures of the tests that make file operations fail, or note them.

The test files name this module in `pytest_plugins`: imported fixtures would be built once for each file.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import preloaded
from tests.forks import Forks


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A server whose forks have preloaded the faults, and as many threads as the tests: they compare bits."""
    with Forks(preloaded(tmp_path_factory.mktemp("library"))) as server:
        yield server


@pytest.fixture(scope="session")
def in_memory() -> Iterator[Path]:
    """A folder in memory, where there is one: a flush takes no time there."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder).resolve()
