"""Which images come when: a pure function of (shard sizes, seed, images seen)."""

from collections.abc import Iterator, Sequence
import functools
import math

import numpy as np

from .errors import DataError


class Order:
    """The running number of a training image -> its index in the data set.

    Running number n lies in epoch n // N at place n % N, and each epoch is a permutation of the N images: the shards are shuffled,
    then the images among each `window` consecutive shards, so reading stays within that many files at a time. Nothing else enters, so
    any world size, batch schedule or restart goes through the same images. What is asked for is computed on demand, a window at a time:
    memory and time are those of one window and of one permutation of the shards, however large the data set.

    How good the shuffle is: within a window it is uniform, and every window holds a uniformly random choice of shards. Images of one
    shard, and they alone, stay nearer to each other than in a full shuffle: always within the same window. A batch of B much smaller
    than a window of M shards touches about M (1 - (1 - 1/M)^B) of them. Raises DataError if N is 0.
    """

    def __init__(self, shard_sizes: Sequence[int], seed: int, window: int = 16):
        self.sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.total = int(self.sizes.sum())
        self.seed, self.window = seed, window
        # A batch may reach into the next window or epoch, and ranks may look back by one.
        self._shards = functools.lru_cache(2)(self._shuffled_shards)
        self._images = functools.lru_cache(3)(self._shuffled_images)
        if self.total < 1:
            raise DataError("the order of 0 images was asked for; wanted at least one training image")

    def indices(self, images: int, batch: int) -> np.ndarray:
        """The data set indices, int64 (batch,), of running numbers images, ..., images + batch - 1, all from 0 up."""
        if images < 0 or batch < 0:
            raise ValueError(f"images={images}, batch={batch}: wanted both from 0 up")
        parts, end = [np.empty(0, np.int64)], images + batch
        while images < end:
            epoch, number, place = self._window_of(images)
            parts.append(self._images(epoch, number)[place : place + end - images])
            images += len(parts[-1])
        return np.concatenate(parts)

    def shards_from(self, images: int) -> Iterator[int]:
        """The numbers of the shards in which running numbers images, images + 1, ... lie, without end, in the order to fetch them in.

        Window after window, epoch after epoch, and within a window in the order of the shuffled shards, since it needs them all at once;
        shards of the first window that are not needed any more are left out.
        """
        epoch, number, place = self._window_of(images)
        left = set((np.searchsorted(self.starts, self._images(epoch, number)[place:], side="right") - 1).tolist())
        while True:
            shards, ends = self._shards(epoch)
            near = shards[number * self.window : (number + 1) * self.window].tolist()
            yield from (shard for shard in near if self.sizes[shard] and (left is None or shard in left))
            left, number = None, number + 1
            if number == len(ends):
                epoch, number = epoch + 1, 0

    def _window_of(self, images: int) -> tuple[int, int, int]:
        """Running number -> epoch, number of the window in it, place in the window."""
        epoch, place = divmod(images, self.total)
        _, ends = self._shards(epoch)
        number = int(np.searchsorted(ends, place, side="right"))
        return epoch, number, place - (int(ends[number - 1]) if number else 0)

    def _shuffled_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The permutation of the shards, and the place in the epoch where each window ends."""
        shards = _permutation([self.seed, epoch, 0], len(self.sizes))
        windows = math.ceil(len(shards) / self.window)
        ends = np.cumsum([self.sizes[shards[i * self.window : (i + 1) * self.window]].sum() for i in range(windows)])
        return shards, ends

    def _shuffled_images(self, epoch: int, number: int) -> np.ndarray:
        shards, _ = self._shards(epoch)
        near = shards[number * self.window : (number + 1) * self.window]
        images = np.concatenate([np.arange(self.starts[s], self.starts[s] + self.sizes[s]) for s in near])
        return images[_permutation([self.seed, epoch, 1 + number], len(images))]


def _permutation(key: list[int], count: int) -> np.ndarray:
    # Sorting raw bits rather than Generator.permutation: NumPy promises that the former never changes, so a run resumes on any version.
    return np.argsort(np.random.PCG64(np.random.SeedSequence(key)).random_raw(count), kind="stable")
