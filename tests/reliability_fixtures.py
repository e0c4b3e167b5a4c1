"""Fixtures of the tests that kill and damage runs."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forks import Forks


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """A server that starts train.py; one thread is enough for its tiny models."""
    with Forks({"OMP_NUM_THREADS": "1"}) as started:
        yield started


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: a kill loses nothing that was written, on the disk or not."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def memory_folder(memory: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=memory))
