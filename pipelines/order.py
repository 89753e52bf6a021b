"""Which images come when: a pure function of (shard sizes, seed, images seen)."""

from collections.abc import Sequence

import numpy as np

from .errors import DataError


class Order:
    """The running number of a training image -> its index in the data set.

    Running number n lies in epoch n // N at place n % N, and each epoch is a permutation of the N images: the shards are shuffled,
    then the images among each `window` consecutive shards, so reading stays within that many files at a time and goes on forward.
    Nothing else enters, so any world size, batch schedule or restart goes through the same images. Raises DataError if N is 0.
    """

    def __init__(self, shard_sizes: Sequence[int], seed: int, window: int = 16):
        self.sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.total = int(self.sizes.sum())
        self.seed, self.window = seed, window
        self._epochs: dict[int, np.ndarray] = {}
        if self.total < 1:
            raise DataError("the order of 0 images was asked for; wanted at least one training image")

    def indices(self, images: int, batch: int) -> np.ndarray:
        """The data set indices, int64 (batch,), of running numbers images, ..., images + batch - 1, all from 0 up."""
        if images < 0 or batch < 0:
            raise ValueError(f"images={images}, batch={batch}: wanted both from 0 up")
        parts, end = [np.empty(0, np.int64)], images + batch
        while images < end:
            epoch, place = divmod(images, self.total)
            parts.append(self._epoch(epoch)[place : place + end - images])
            images += len(parts[-1])
        return np.concatenate(parts)

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            # A batch may reach into the next epoch, and ranks may look back by one: two are held, no more.
            self._epochs = {e: p for e, p in self._epochs.items() if abs(e - epoch) == 1}
            self._epochs[epoch] = self._permutation(epoch)
        return self._epochs[epoch]

    def _permutation(self, epoch: int) -> np.ndarray:
        # Sorting raw bits rather than Generator.permutation: NumPy promises that the former never changes, so a run resumes on any version.
        bits = np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
        shards = np.argsort(bits.random_raw(len(self.sizes)), kind="stable")
        parts = []
        for first in range(0, len(shards), self.window):
            near = shards[first : first + self.window]
            images = np.concatenate([np.arange(self.starts[s], self.starts[s] + self.sizes[s]) for s in near])
            parts.append(images[np.argsort(bits.random_raw(len(images)), kind="stable")])
        return np.concatenate(parts)
