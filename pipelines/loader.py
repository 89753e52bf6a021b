"""Pictures as tensors, in the order asked for, decoded ahead of the training that uses them."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from .decoders import host_batch, open_decoder
from .errors import DataError
from .shards import Shards


class Loader:
    """Delivers one level and split of a data set as uint8 batches, decoded by `workers` threads (0: one a core, at most 16).

    `kind` says by what: pillow or dali; both give the same pictures in the same order. A level that takes at most `cache_gb`
    (10^9 bytes) of memory as uint8 is kept there: each picture is decoded when first asked for, never twice. Threads live as long as a
    stream. Raises DataError if there is no such level, no picture in the split, or no DALI where it is asked for.
    """

    def __init__(
        self,
        shards: Shards,
        resolution: int,
        split: str = "train",
        cache_gb: float = 4.0,
        workers: int = 0,
        kind: str = "pillow",
    ):
        shards.require_level(resolution)
        self.shards, self.resolution, self.split = shards, resolution, split
        count, shape = shards.count(split), (resolution, resolution, shards.channels)
        if not count:
            raise DataError(f"{shards.root}: no picture in the split {split}; prepare it with split.holdout= or split.prefix=")
        self.cached = count * np.prod(shape) <= cache_gb * 1e9
        self._decoder = open_decoder(kind, shards, resolution, split, workers, keep=self.cached)
        # Memory of an empty tensor is taken only where it is written.
        self._cache = torch.empty((count, *shape), dtype=torch.uint8) if self.cached else None
        self._known = np.zeros(count, bool)

    def stream(self, plan: Iterable[np.ndarray]) -> Generator[Tensor, None, None]:
        """For each index array (B,) of `plan`, in that order, uint8 (B, C, r, r) in 0..255; `plan` may be endless.

        The memory lies as it was decoded, (B, r, r, C), and what is delivered is a view of it with torch's channels_last strides: the
        conversion to NCHW floats belongs on the training device. Beside a GPU it is page-locked, for copies that do not block; DALI's
        batches of levels that are not kept are already on the GPU. The plan is read ahead by two batches, or four pictures a worker where
        that is more. Raises DataError naming shard and key where a picture cannot be read or decoded, or naming what died in a thread.
        """
        asked: deque[tuple[np.ndarray, np.ndarray]] = deque()
        with closing(self._decoder.stream(self._requests(plan, asked))) as decoded:
            for pixels in decoded:
                indices, wanted = asked.popleft()
                if self.cached:
                    self._cache.numpy()[wanted] = pixels.numpy()
                    self._known[wanted] = True
                    pixels = self._gather(indices)
                yield pixels.permute(0, 3, 1, 2)

    def read(self, indices: Iterable[int]) -> Tensor:
        """Pictures `indices` as uint8 (B, C, r, r), now; memory and errors as in `stream`."""
        with closing(self.stream([np.fromiter(indices, np.int64)])) as stream:
            return next(stream)

    def _requests(self, plan: Iterable[np.ndarray], asked: deque[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
        """What the decoder has to decode for each batch: all of it, or what is neither in memory nor asked for ahead."""
        known = self._known.copy()  # a stream may end before what it asked for is there
        for batch in plan:
            indices = np.asarray(batch, dtype=np.int64)
            wanted = indices
            if self.cached:
                wanted = np.unique(indices[~known[indices]])
                known[wanted] = True
            asked.append((indices, wanted))
            yield wanted

    def _gather(self, indices: np.ndarray) -> Tensor:
        out = host_batch(len(indices), self.resolution, self.shards.channels)
        return torch.index_select(self._cache, 0, torch.from_numpy(indices), out=out)
