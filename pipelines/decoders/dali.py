"""Decoding by NVIDIA DALI: on the GPU where there is one, else with its CPU operators."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codecs import decode
from ..errors import DataError
from ..shards import Shards
from . import host_batch, in_order, telling, undecodable
from .pillow import PillowDecoder

CHUNK = 2**27  # bytes of pixels that go through the pipeline at once: a request may be a whole held-out split


class DaliDecoder:
    """A pipeline with `workers` threads, fed with the bytes that one more thread reads ahead.

    Beside a GPU the pictures are decoded there (JPEG) or moved there, and stay there, unless `keep`. Raw levels (.npy) hold nothing to
    decode: they are read as the Pillow decoder reads them. Raises DataError if DALI is not installed.
    """

    def __init__(self, shards: Shards, resolution: int, split: str, workers: int, keep: bool):
        try:
            import_module("nvidia.dali")
        except ImportError as error:
            install = "pip install 'hires[dali-cuda13]', or dali-cuda12"
            raise DataError(f"loader=dali: DALI is not installed ({error}); {install}, or take loader=pillow") from error
        self.shards, self.resolution, self.split, self.workers = shards, resolution, split, workers
        self.suffix = shards.codec(resolution).suffix
        self.shape = (resolution, resolution, shards.channels)
        self.chunk = min(1024, max(1, CHUNK // int(np.prod(self.shape))))
        self.gpu = torch.cuda.current_device() if torch.cuda.is_available() and not keep else None
        self._stream = None if self.gpu is None else torch.cuda.Stream(self.gpu)  # not the training's, behind whose work copies would queue

    def stream(self, requests: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """As Decoder.stream; on the GPU if that is where the pictures stay."""
        if self.suffix == "npy":
            yield from PillowDecoder(self.shards, self.resolution, self.split, self.workers).stream(requests)
            return
        pipeline = self._pipeline()
        reader, decoder = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "decode")

        def start(indices: np.ndarray) -> Callable[[], Tensor]:
            chunks = [indices[at : at + self.chunk] for at in range(0, len(indices), self.chunk)]
            read = [reader.submit(self._read, chunk) for chunk in chunks]
            work = [decoder.submit(self._decode, pipeline, chunk, blobs) for chunk, blobs in zip(chunks, read, strict=True)]
            return lambda: self._joined([part.result() for part in work])

        try:
            yield from in_order(requests, self.workers, start)
        finally:
            decoder.shutdown(cancel_futures=True)
            reader.shutdown(cancel_futures=True)

    def _pipeline(self) -> Any:
        from nvidia.dali import fn, pipeline_def, types

        @pipeline_def(batch_size=self.chunk, num_threads=self.workers, device_id=self.gpu, prefetch_queue_depth=1)
        def decoding() -> Any:
            # no_copy: the bytes stay where they were read; _decode holds them until the output is there.
            data = fn.external_source(name="bytes", dtype=types.UINT8, ndim=1, no_copy=True)
            device = "mixed" if self.gpu is not None and self.suffix == "jpg" else "cpu"
            colours = types.RGB if self.shards.channels == 3 else types.GRAY
            # fancy upsampling is what libjpeg-turbo, and so Pillow, does with subsampled colours
            images = fn.decoders.image(data, device=device, output_type=colours, adjust_orientation=False, jpeg_fancy_upsampling=True)
            return images if self.gpu is None else images.gpu()

        pipeline = decoding()
        pipeline.build()
        return pipeline

    def _read(self, indices: np.ndarray) -> list[bytes]:
        with telling(self.shards, self.resolution, self.split, indices, "reading"):
            return self.shards.read(self.resolution, self.split, indices)

    def _decode(self, pipeline: Any, indices: np.ndarray, reading: Future[list[bytes]]) -> Tensor:
        with telling(self.shards, self.resolution, self.split, indices, "decoding"):
            blobs = reading.result()
            try:
                pipeline.feed_input("bytes", [np.frombuffer(blob, np.uint8) for blob in blobs])
                (out,) = pipeline.run()  # finished on the GPU too when it returns
                pixels = torch.from_dlpack(out.as_tensor())
                if pixels.shape == (len(indices), *self.shape):
                    return pixels if self.gpu is None else self._own(pixels)
                said = f"found pictures of {tuple(pixels.shape[1:])}"
            except RuntimeError as error:
                said = str(error)
            raise self._culprit(indices, blobs, said)

    def _own(self, pixels: Tensor) -> Tensor:
        """A copy in torch's memory: DALI takes its own back on a stream that knows nothing of the training's kernels."""
        with torch.cuda.stream(self._stream):
            copy = pixels.clone()
        self._stream.synchronize()
        return copy

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """The chunks of a request as one tensor."""
        if not parts:
            return host_batch(0, self.resolution, self.shards.channels)
        if self.gpu is not None:
            for part in parts:
                part.record_stream(torch.cuda.current_stream(self.gpu))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _culprit(self, indices: np.ndarray, blobs: list[bytes], said: str) -> DataError:
        """DALI does not say which picture it failed on: Pillow finds it, or else the range is named with DALI's own words."""
        for index, blob in zip(indices.tolist(), blobs, strict=True):
            try:
                decode(blob, self.resolution, self.shards.channels)
            except ValueError as error:
                return undecodable(self.shards, self.resolution, self.split, index, error)
        first, last = self.shards.place(self.resolution, self.split, int(indices[0])), self.shards.keys(self.split)[indices[-1]]
        reason = said.split("encountered:")[-1].removesuffix("Current pipeline object is no longer valid.").strip()
        failed = f"DALI cannot decode one of these {len(indices)} pictures ({reason})"
        return DataError(f"{first} to {last}: {failed}, but Pillow can: take loader=pillow")
