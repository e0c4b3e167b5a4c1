"""The lock of a folder that is written to: one process trains, or prepares a text, in it at a time."""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from nanogpt.errors import InputError
from nanogpt.files import make_folder

LOCK = "lock"
"""The file in the folder. It names the process that has it."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""The errors of a file system without locks."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made if need be, and removed again if it stays empty.

    The lock is the operating system's own: it ends with the process, however that ends, and holds on network
    file systems that have locks. Raises InputError if another process has it. A line on standard error says
    so where the file system has no locks.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    file = folder / LOCK
    lock = FileLock(file, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    except Timeout:
        raise InputError(f"{folder} is in use by {_owner(file)}: wait, or take another folder") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise InputError(f"{folder} can't be locked by {file}: {error.strerror}") from error
        reason = f"{folder} can't be locked ({error.strerror})"
        print(f"{reason}: let one process alone write to it", file=sys.stderr)
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                file.unlink()
            lock.release()
        for path in made:
            with suppress(OSError):  # it holds something now
                path.rmdir()


def _owner(file: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return file.read_text(encoding="utf-8")[:100] or "another process"
    return "another process"
