"""Pictures as tensors, in the order asked for, decoded ahead of the training that uses them."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
import math
import os

import numpy as np
import torch
from torch import Tensor

from .codecs import decode
from .errors import DataError
from .shards import Shards

MOST_WORKERS = 16  # beyond that, Python's lock leaves threads little to gain


class Loader:
    """Delivers one level and split of a data set as uint8 batches.

    Pictures are decoded by `workers` threads (0: one per core of this process, at most 16; the decoders release Python's lock). A level
    that takes at most `cache_gb` (10^9 bytes) of memory as uint8 is kept there: each picture is decoded when first asked for, never twice.
    Raises DataError if there is no such level, or no picture in the split.
    """

    def __init__(self, shards: Shards, resolution: int, split: str = "train", cache_gb: float = 4.0, workers: int = 0):
        shards.require_level(resolution)
        self.shards, self.resolution, self.split = shards, resolution, split
        self.workers = workers or min(MOST_WORKERS, len(os.sched_getaffinity(0)))
        self.shape = (shards.channels, resolution, resolution)
        count = shards.count(split)
        if not count:
            raise DataError(f"{shards.root}: no picture in the split {split}; prepare it with split.holdout= or split.prefix=")
        self.cached = count * math.prod(self.shape) <= cache_gb * 1e9
        # Memory of an empty tensor is taken only where it is written.
        self._cache = torch.empty((count, *self.shape), dtype=torch.uint8) if self.cached else None
        self._known = np.zeros(count, bool)

    def stream(self, plan: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """For each index array (B,) of `plan`, in that order, uint8 (B, C, r, r) in 0..255; `plan` may be endless.

        It is read ahead by two batches, or four pictures a worker where that is more. Raises DataError naming shard and key where a
        picture cannot be read or decoded.
        """
        plan, pending, more = iter(plan), deque(), True
        with ThreadPoolExecutor(self.workers, "decode") as pool:
            try:
                while True:
                    while more and (len(pending) < 3 or sum(batch.size for batch in pending) < 4 * self.workers):
                        indices = next(plan, None)
                        more = indices is not None
                        if more:
                            pending.append(self._start(pool, np.asarray(indices, dtype=np.int64)))
                    if not pending:
                        return
                    yield self._finish(pending.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def read(self, indices: Iterable[int]) -> Tensor:
        """Pictures `indices` as uint8 (B, C, r, r), now; raises as `stream` does."""
        return next(self.stream([np.fromiter(indices, np.int64)]))

    def _start(self, pool: ThreadPoolExecutor, indices: np.ndarray) -> "_Batch":
        if self.cached:
            wanted = np.unique(indices[~self._known[indices]])
            target, slots = self._cache, wanted
        else:
            wanted = indices
            target, slots = torch.empty((len(indices), *self.shape), dtype=torch.uint8), np.arange(len(indices))
        share = max(1, -(-len(wanted) // self.workers))
        parts = range(0, len(wanted), share)
        work = [pool.submit(self._decode, wanted[p : p + share], target, slots[p : p + share]) for p in parts]
        return _Batch(indices, target, work)

    def _finish(self, batch: "_Batch") -> Tensor:
        for part in batch.work:
            part.result()
        return batch.target[torch.from_numpy(batch.indices)] if self.cached else batch.target

    def _decode(self, indices: np.ndarray, target: Tensor, slots: np.ndarray) -> None:
        blobs = self.shards.read(self.resolution, self.split, indices)
        pixels = target.numpy()
        for index, slot, blob in zip(indices.tolist(), slots.tolist(), blobs, strict=True):
            try:
                pixels[slot] = decode(blob, self.resolution, self.shards.channels).transpose(2, 0, 1)
            except ValueError as error:
                place = self.shards.place(self.resolution, self.split, index)
                wanted = f"a picture of {self.resolution}x{self.resolution}, {self.shards.channels} channel(s)"
                raise DataError(f"{place}: {error}; wanted {wanted}: delete the shard and run hires prepare again") from error
            if self.cached:
                self._known[slot] = True


@dataclass
class _Batch:
    """A batch under way: the pictures asked for, the tensor they are decoded into, and who is doing it."""

    indices: np.ndarray
    target: Tensor
    work: list[Future]

    @property
    def size(self) -> int:
        return len(self.indices)
