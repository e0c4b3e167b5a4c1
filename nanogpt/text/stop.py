"""Stop texts: a continuation ends before the first of them."""

from collections.abc import Iterable, Iterator

from nanogpt.errors import InputError


def checked_stops(stop: str | Iterable[str]) -> tuple[str, ...]:
    """The stop texts of the option `stop`, which is one or several. Raises InputError if one is empty."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in stops:
        raise InputError("a stop text is empty: give it at least one character")
    return stops


def before_stop(pieces: Iterable[str], stops: tuple[str, ...]) -> Iterator[str]:
    """The pieces of a text up to the stop text that is complete first; no piece after it is asked for.

    The end of a piece is held back while it may begin a stop text.
    """
    held = ""
    for piece in pieces:
        held += piece
        # By their ends: a longer one may begin earlier, but whether it goes on is not known yet.
        if ends := [(held.find(stop) + len(stop), held.find(stop)) for stop in stops if stop in held]:
            yield held[: min(ends)[1]]
            return
        begun = (n for stop in stops for n in range(len(stop)) if held.endswith(stop[:n]))
        told = len(held) - max(begun, default=0)
        yield held[:told]
        held = held[told:]
    yield held
