"""Work that runs ahead of who uses it."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
DONE = object()


def ahead(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """The same items in the same order, made in a thread of their own, at most `depth` of them before they are asked for.

    What `items` raises is raised here, after the items before it. When the consumer stops early, the thread ends with the item at hand.
    """
    source = iter(items)
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = deque(thread.submit(next, source, DONE) for _ in range(depth))
        try:
            while (item := coming.popleft().result()) is not DONE:
                coming.append(thread.submit(next, source, DONE))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)
