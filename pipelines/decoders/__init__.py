"""Stored bytes to pixels, ahead of whoever uses them: by Pillow, or by DALI."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
import math
import os
from typing import Protocol
import weakref

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..shards import Shards

MOST_WORKERS = 16  # beyond that, Python's lock leaves threads little to gain


class Decoder(Protocol):
    """Pictures of one level and split, by their indices."""

    def stream(self, requests: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """For each index array (n,), n from 0 up, in that order, uint8 (n, r, r, C) in 0..255 that is the caller's.

        `requests`, which may be endless, is read ahead by a bounded number, in the caller's thread. Closing the iterator ends all threads.
        Raises DataError naming shard and key where a picture cannot be read or decoded, or naming what died in a thread.
        """
        ...


def open_decoder(kind: str, shards: Shards, resolution: int, split: str, workers: int, keep: bool) -> Decoder:
    """The decoder of `kind` (pillow | dali) with `workers` threads (0: one a core of this process, at most 16).

    `keep`: its pictures are to stay in the host's memory. Raises DataError for another kind, or where DALI is not installed.
    """
    workers = workers or min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    if kind == "dali":
        from .dali import DaliDecoder

        return DaliDecoder(shards, resolution, split, workers, keep)
    if kind not in ("pillow", "webdataset"):  # what older runs call it: they read webdataset's shards so, but never by that package
        raise DataError(f"loader={kind}: unknown; wanted pillow or dali")
    from .pillow import PillowDecoder

    return PillowDecoder(shards, resolution, split, workers)


def host_batch(count: int, resolution: int, channels: int) -> Tensor:
    """Empty uint8 (count, r, r, C); beside a GPU in page-locked memory, which alone can be copied to it while both go on working."""
    return torch.empty((count, resolution, resolution, channels), dtype=torch.uint8, pin_memory=torch.cuda.is_available())


class HostBatches:
    """As host_batch, in memory that batches which nobody holds any more leave behind.

    Fresh memory costs page faults: of the time of a 1024x1024 picture, a tenth. Page-locked memory torch recycles itself.
    """

    def __init__(self, resolution: int, channels: int):
        self.shape = (resolution, resolution, channels)
        self._left: list[np.ndarray] = []

    def take(self, count: int) -> Tensor:
        """Empty uint8 (count, r, r, C)."""
        if torch.cuda.is_available():
            return host_batch(count, self.shape[0], self.shape[2])
        size = count * math.prod(self.shape)
        memory = self._left.pop() if self._left else np.empty(0, np.uint8)
        if memory.size < size:
            memory = np.empty(size, np.uint8)
        batch = memory[:size].reshape(count, *self.shape)
        weakref.finalize(batch, self._left.append, memory).atexit = False  # torch holds `batch` while any view of the tensor lives
        return torch.from_numpy(batch)


def in_order(requests: Iterable[np.ndarray], workers: int, start: Callable[[np.ndarray], Callable[[], Tensor]]) -> Iterator[Tensor]:
    """Starts requests ahead, two of them, or four pictures a worker where that is more, and waits for their results in order."""
    pending: deque[tuple[int, Callable[[], Tensor]]] = deque()
    for request in requests:
        pending.append((max(1, len(request)), start(request)))
        if len(pending) > 2 and sum(size for size, _ in pending) >= 4 * workers:
            yield pending.popleft()[1]()
    while pending:
        yield pending.popleft()[1]()


@contextmanager
def telling(shards: Shards, resolution: int, split: str, indices: np.ndarray, doing: str) -> Iterator[None]:
    """Around what a thread does with pictures `indices`: whatever ends it becomes a DataError, for the consumer to stop with.

    SystemExit too, which would otherwise end the consumer without a word.
    """
    try:
        yield
    except DataError:
        raise
    except BaseException as error:
        first, last = shards.place(resolution, split, int(indices[0])), shards.keys(split)[indices[-1]]
        died = f"the thread that was {doing} {len(indices)} pictures, {first} to {last}, died"
        raise DataError(f"{died}: {type(error).__name__}: {error}") from error


def undecodable(shards: Shards, resolution: int, split: str, index: int, found: object) -> DataError:
    """What to say of a picture that is not what the manifest promises."""
    wanted = f"a picture of {resolution}x{resolution}, {shards.channels} channel(s)"
    return DataError(f"{shards.place(resolution, split, index)}: {found}; wanted {wanted}: {shards.files.mend}")
