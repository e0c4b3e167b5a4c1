"""Ctrl-C and SIGTERM: a command obeys them from its first line on, whatever it is doing.

Python calls a signal's handler between two lines of the main thread, which may be inside a compiler for a
minute. So a thread of its own waits for the signals. This file imports the standard library alone, for a
command imports it before all others.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM)
# timeout(1) sends its signal to the process, and again to the group of the process.
TWICE_SECONDS = 0.1

_received: list[int] = []
_is_worth_saving: Callable[[], bool] | None = None


def obey_signals() -> None:
    """From now on SIGINT and SIGTERM end the process at once, with exit code 128 + their number.

    `collected_signals` makes an exception.
    """
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    for number in NUMBERS:
        signal.signal(number, lambda *_: None)
    # Python writes the number of a signal there when it comes, not when the main thread has time for it.
    signal.set_wakeup_fd(pythons.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_obey, args=(ours,), daemon=True).start()


@contextmanager
def collected_signals(is_worth_saving: Callable[[], bool]) -> Iterator[Sequence[int]]:
    """Collect the first signal that comes while there is something worth saving, so that the caller can stop.

    Any other ends the process at once. Without `obey_signals` none is collected.
    """
    global _is_worth_saving
    _received.clear()
    _is_worth_saving = is_worth_saving
    try:
        yield _received
    finally:
        _is_worth_saving = None


def _obey(ours: socket.socket) -> None:
    last = 0.0
    with ours:
        while told := ours.recv(1):
            number = told[0]
            if number not in NUMBERS or time.monotonic() - last < TWICE_SECONDS:
                continue
            last = time.monotonic()
            if _received or not _is_worth_saving or not _is_worth_saving():
                _leave(number)
            _received.append(number)


def _leave(number: int) -> None:
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), b"\x1b[?25h\n")  # the cursor, which a live line hides
    os._exit(128 + number)
