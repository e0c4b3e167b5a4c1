"""A continuation ends before the first end token, and before the first stop text."""

from collections.abc import Iterable, Iterator

import numpy as np

from nanogpt.errors import InputError


def checked_stops(stop: str | Iterable[str]) -> tuple[str, ...]:
    """The stop texts of the option `stop`, which is one or several. Raises InputError if one is empty."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in stops:
        raise InputError("a stop text is empty: give it at least one character")
    return stops


def before_end(blocks: Iterable[np.ndarray], ends: int | list[int]) -> Iterator[np.ndarray]:
    """The blocks of tokens `[n]` up to the first end token; no block after it is asked for."""
    for tokens_n in blocks:
        found = np.flatnonzero(np.isin(tokens_n, ends))
        if found.size:
            yield tokens_n[: found[0]]
            return
        yield tokens_n


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
