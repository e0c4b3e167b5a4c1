"""The one exception for input that a person can mend."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input, told in one line that says what to change. The front doors print it and exit with 2."""


@contextmanager
def told_in_a_line(what: str) -> Iterator[None]:
    """Whatever a library raises of input that fails it becomes one InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {(str(error) or type(error).__name__).splitlines()[0][:200]}") from None
