"""Limits under which a command must tell what is wrong: of memory, of time, and of one line."""

import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from nanogpt.errors import InputError

MEMORY = 2**31
"""Bytes of address space that a test may add. What no guard stops asks for more, and fails at once."""
SECONDS = 20
"""A test takes this long only where it waits for ever."""


@contextmanager
def bounded() -> Iterator[None]:
    """Within it, memory and time have an end."""
    before = signal.signal(signal.SIGALRM, _waited)
    signal.alarm(SECONDS)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _waited(*_: Any) -> NoReturn:
    raise AssertionError("it waits for ever")


def refusal(main: Callable[[list[str]], int], flags: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The complaint of a command about flags: its last line, or all lines of tyro's box as one."""
    capsys.readouterr()
    boxed, code = False, 0
    try:
        code = main(flags)
    except SystemExit as end:
        boxed, code = True, int(end.code or 0)
    out, error = capsys.readouterr()
    assert code == 2, error
    assert out == ""
    assert "Traceback" not in error
    if boxed:
        return re.sub(r"[\s│|]+", " ", error)
    last = error.splitlines()[-1]
    assert last.startswith("error: ")
    return last


def complaint(call: Callable[[], object]) -> str | None:
    """The line in which a call refuses its input; none where it takes it."""
    told = None
    try:
        call()
    except InputError as error:
        told = str(error)
    assert told is None or len(told.splitlines()) == 1
    assert told is None or len(told) < 1_000
    return told
