"""The exception for input that the user can correct."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input, described in one line that says what to change. Commands print it and exit with 2."""


def first_line(error: BaseException) -> str:
    """The first line of the message of an exception, or its name where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def told_in_a_line(what: str) -> Iterator[None]:
    """Turn any exception of a library into an InputError: `what`, then the first line of its message."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {first_line(error)}") from error
