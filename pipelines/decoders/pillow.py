"""Decoding in threads of Python: Pillow's decoders release its lock."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from torch import Tensor

from ..codecs import decode
from ..shards import Shards
from . import HostBatches, in_order, telling, undecodable


class PillowDecoder:
    """Each of `workers` threads reads and decodes a share of a request, straight into the tensor that is delivered."""

    def __init__(self, shards: Shards, resolution: int, split: str, workers: int):
        self.shards, self.resolution, self.split, self.workers = shards, resolution, split, workers
        self.suffix = shards.codec(resolution).suffix

    def stream(self, requests: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """As Decoder.stream."""
        pool, memory = ThreadPoolExecutor(self.workers, "decode"), HostBatches(self.resolution, self.shards.channels)
        try:
            yield from in_order(requests, self.workers, lambda indices: self._start(pool, indices, memory.take(len(indices))))
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, indices: np.ndarray, target: Tensor) -> Callable[[], Tensor]:
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
                    decode_into(target[slot], blob, self.suffix)
                except ValueError as error:
                    raise undecodable(self.shards, self.resolution, self.split, index, error) from error


def decode_into(target: np.ndarray, data: bytes, suffix: str) -> None:
    """Decodes as codecs.decode into `target`, uint8 (r, r, C), and raises as it does.

    Size and mode of a JPEG are known, so it needs no Image.open, which is a tenth of the time at 256x256.
    """
    size, channels = target.shape[0], target.shape[2]
    if suffix == "jpg":
        mode = "RGB" if channels == 3 else "L"
        try:
            image = Image.frombytes(mode, (size, size), data, "jpeg", mode, "")
        except ValueError:
            pass  # codecs.decode says in words what it is instead
        else:
            target[...] = np.asarray(image).reshape(target.shape)
            return
    target[...] = decode(data, size, channels)
