"""A thread makes items before they are asked for, in their order, and ends."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.ahead import ahead


@given(st.lists(st.integers() | st.none()), st.integers(1, 5))
def test_the_items_come_in_their_order(items: list[int | None], count: int) -> None:
    assert list(ahead(items, count)) == items


def test_items_are_made_before_they_are_asked_for_but_not_too_many() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            made.append(item)
            yield item

    with closing(ahead(items(), 3)) as coming:
        assert next(coming) == 0
        wait_until(lambda: len(made) == 4)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3]
        assert next(coming) == 1
        wait_until(lambda: len(made) == 5)


def test_an_error_reaches_whoever_asks_for_its_item() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    coming = ahead(items(), 2)
    assert [next(coming), next(coming)] == [1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(coming)
    assert not list(coming)


def test_the_thread_ends_with_its_user() -> None:
    before = threading.active_count()
    coming = ahead(iter(range(10**9)), 4)
    next(coming)
    assert threading.active_count() == before + 1
    coming.close()
    assert threading.active_count() == before


def wait_until(is_true: object) -> None:
    end = time.monotonic() + 10
    while not is_true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.001)
