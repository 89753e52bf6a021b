"""Decoding in threads of Python: Pillow's decoders release its lock."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from torch import Tensor

from ..codecs import decode
from ..shards import Shards
from . import host_batch, in_order, telling, undecodable


class PillowDecoder:
    """Each of `workers` threads reads and decodes a share of a request, straight into the tensor that is delivered."""

    def __init__(self, shards: Shards, resolution: int, split: str, workers: int):
        self.shards, self.resolution, self.split, self.workers = shards, resolution, split, workers

    def stream(self, requests: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """As Decoder.stream."""
        pool = ThreadPoolExecutor(self.workers, "decode")
        try:
            yield from in_order(requests, self.workers, lambda indices: self._start(pool, indices))
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, indices: np.ndarray) -> Callable[[], Tensor]:
        target = host_batch(len(indices), self.resolution, self.shards.channels)
        pixels, share = target.numpy(), max(1, -(-len(indices) // self.workers))
        starts = range(0, len(indices), share)
        work = [pool.submit(self._decode, indices[at : at + share], pixels[at : at + share]) for at in starts]

        def finish() -> Tensor:
            for part in work:
                part.result()
            return target

        return finish

    def _decode(self, indices: np.ndarray, target: np.ndarray) -> None:
        with telling(self.shards, self.resolution, self.split, indices, "decoding"):
            blobs = self.shards.read(self.resolution, self.split, indices)
            for slot, (index, blob) in enumerate(zip(indices.tolist(), blobs, strict=True)):
                try:
                    target[slot] = decode(blob, self.resolution, self.shards.channels)
                except ValueError as error:
                    raise undecodable(self.shards, self.resolution, self.split, index, error) from error
