"""Work that runs ahead of who uses it."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")
DONE = object()


def ahead(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The same items in the same order, made in a thread of their own, at most `depth` of them before they are asked for.

    What `items` raises is raised here, after the items before it. When the consumer stops early, the thread ends with the item at hand.
    """
    queue: Queue = Queue(depth)
    stopped = Event()

    def put(item: object) -> bool:
        while not stopped.is_set():
            with suppress(Full):
                queue.put(item, timeout=0.1)  # in turns, to hear of the consumer's end
                return True
        return False

    def work() -> None:
        end: object = DONE
        try:
            for item in items:
                if not put((item, None)):
                    return
        except BaseException as error:  # raised again in the consumer's thread
            end = error
        put((DONE, end))

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, end = queue.get()
            if item is DONE:
                if end is not DONE:
                    raise end
                return
            yield item
    finally:
        stopped.set()
        with suppress(Empty):
            while True:
                queue.get_nowait()
        thread.join()
