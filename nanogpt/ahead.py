"""A thread makes what is needed next, such as the next batches while a device trains on the last ones."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item], count: int) -> Generator[Item]:
    """The items in their order, of which a thread makes up to `count` before they are asked for.

    An error in the making of an item is raised where that item is asked for. The thread ends with the items,
    or when this generator is closed.
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        made: deque[Any] = deque(thread.submit(next, iterator, end) for _ in range(count))
        try:
            while (item := made.popleft().result()) is not end:
                made.append(thread.submit(next, iterator, end))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)
