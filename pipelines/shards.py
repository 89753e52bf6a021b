"""A prepared data set, opened and checked."""

from collections.abc import Iterable, Sequence
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any
import zlib

import numpy as np

from .codecs import Codec
from .errors import DataError
from .files import Files, LocalFiles
from .listing import SPLITS
from .manifest import MANIFEST, read_manifest

INDEX = "index.json"
ENTRY = np.dtype([("offset", "<i8"), ("size", "<u4"), ("crc32", "<u4")])  # of one picture's bytes in its shard: a row of index/


class Shards:
    """What `hires prepare` wrote: levels of webdataset shards, each with the same pictures in the same order."""

    def __init__(self, files: Files, manifest: dict):
        self.files, self.manifest, self.root = files, manifest, files.root
        self.levels: list[int] = manifest["levels"]
        self.channels: int = manifest["channels"]
        self._starts = {split: np.cumsum([0, *self.shard_sizes(split)]) for split in SPLITS}
        self._open = functools.lru_cache(maxsize=files.open_at_once)(lambda name: _File(files.open(name)))
        self._index = functools.cache(self._load_index)

    @classmethod
    def open(cls, root: str | Path, cache: str = "", cache_gb: float = 50.0) -> "Shards":
        """The data set at `root`, a folder or an address (http://, https://, or any scheme that fsspec knows, such as s3://).

        Of an address, files are fetched when needed into the folder `cache`, which keeps at most `cache_gb` (10^9 bytes) of shards. Raises
        DataError if the data set is missing, unfinished, of another format, or a file is missing or cut short.
        """
        if "://" in str(root):
            from .remote import RemoteFiles  # fsspec, which a local folder does not need

            files: Any = RemoteFiles(str(root), cache, cache_gb)
        else:
            files = LocalFiles(root)
        shards = cls(files, read_manifest(files))
        for name, size, digest in shards.contents():
            files.check(name, size, digest)
        return shards

    def contents(self) -> Iterable[tuple[str, int, str]]:
        """Name, bytes and sha256 of each file of the data set but the manifest, the index first."""
        found = self.manifest["index"]
        yield INDEX, found["bytes"], found["sha256"]
        for name, found in self._index_files.items():
            yield name, found["bytes"], found["sha256"]
        for split in SPLITS:
            for shard in self.manifest["shards"][split]:
                for level, found in shard["levels"].items():
                    yield f"{level}/{shard['name']}.tar", found["bytes"], found["sha256"]

    @functools.cached_property
    def identity(self) -> str:
        """A hash of all shards' names, sizes and hashes: equal for the same pictures in the same shards, wherever they lie."""
        return hashlib.sha256(json.dumps(self.manifest["shards"], sort_keys=True).encode()).hexdigest()

    def count(self, split: str) -> int:
        """Number of pictures in `split` (train | holdout)."""
        return self.manifest["counts"][split]

    def shard_sizes(self, split: str) -> list[int]:
        """Number of pictures in each shard of `split`, in order; the same on every level."""
        return [shard["images"] for shard in self.manifest["shards"][split]]

    def keys(self, split: str) -> list[str]:
        """The keys of all pictures of `split`, in order; raises DataError if they are not those that were written."""
        name = f"index/{split}.keys"
        file, found = self.files.path(name), self._index_files.get(name, {})
        try:
            data = file.read_bytes()
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error
        if hashlib.sha256(data).hexdigest() != found.get("sha256"):
            raise DataError(f"{file}: not the keys that were written (sha256); {self.files.mend}")
        return data.decode().split("\n")[:-1]

    def codec(self, resolution: int) -> Codec:
        """How a level is stored."""
        return Codec(self.manifest["codecs"][str(resolution)])

    def require_level(self, resolution: int) -> None:
        """Raises DataError unless the level `resolution` was prepared."""
        if resolution not in self.levels:
            there = ", ".join(map(str, self.levels))
            raise DataError(f"{self.root}: no level {resolution}, it has {there}; prepare one that has it in another out=")

    def entries(self, resolution: int, split: str) -> np.ndarray:
        """Offset, size and CRC-32 of each picture's bytes in its shard, an array (N,) of ENTRY mapped from the index."""
        self.require_level(resolution)
        return self._index(resolution, split)

    def read(self, resolution: int, split: str, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """The stored bytes of pictures `indices` (each in 0..count-1) of a level, in that order, from any thread or forked process.

        Raises DataError if there is no such level, or naming shard and key where bytes are missing or are not those that were written;
        IndexError for an index out of range.
        """
        wanted, index = np.asarray(indices, dtype=np.int64), self.entries(resolution, split)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(index)):
            raise IndexError(f"pictures {wanted.min()}..{wanted.max()} of {len(index)} in {split}")
        out = []
        for i, number, (offset, size, crc) in zip(wanted.tolist(), self.shard_numbers(split, wanted), index[wanted].tolist(), strict=True):
            opened = self._open(self.shard_file(resolution, split, number))  # held by name: another thread may drop it from the cache
            try:
                data = os.pread(opened.descriptor, size, offset)
            except (OSError, MemoryError) as error:  # of the disk, or of an index whose numbers cannot be
                raise DataError(f"{self.place(resolution, split, i)}: {size} bytes at {offset} cannot be read ({error})") from error
            if len(data) != size:
                found = os.fstat(opened.descriptor).st_size
                raise DataError(f"{self.place(resolution, split, i)}: the shard was cut short to {found} bytes; wanted {offset + size}")
            if zlib.crc32(data) != crc:
                raise DataError(f"{self.place(resolution, split, i)}: {size} bytes that are not those written (CRC-32); {self.files.mend}")
            out.append(data)
        return out

    def place(self, resolution: int, split: str, index: int) -> str:
        """Where picture `index` of `split` lies on a level, for a person: 'data/faces/256/shard-00001.tar: key'."""
        number = self.shard_numbers(split, np.array([index]))[0]
        return f"{self.root}/{self.shard_file(resolution, split, number)}: {self.keys(split)[index]}"

    def shard_file(self, resolution: int, split: str, number: int) -> str:
        """The name of a shard's file, relative to the root."""
        return f"{resolution}/{self.manifest['shards'][split][number]['name']}.tar"

    def shard_numbers(self, split: str, indices: np.ndarray) -> list[int]:
        """The number of the shard that each picture lies in."""
        return (np.searchsorted(self._starts[split], indices, side="right") - 1).tolist()

    def prefetch(self, resolution: int, numbers: Iterable[int]) -> None:
        """Tells in which order the training shards of a level will be needed; only remote ones care."""
        self.files.prefetch(self.shard_file(resolution, "train", number) for number in numbers)

    @functools.cached_property
    def _index_files(self) -> dict:
        found = self.manifest["index"]
        self.files.check(INDEX, found["bytes"], found["sha256"])
        path = self.files.path(INDEX)
        try:
            text = path.read_bytes()
            if hashlib.sha256(text).hexdigest() == found["sha256"]:
                return json.loads(text)["files"]
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        raise DataError(f"{path}: not the one that was written with {MANIFEST} (sha256); {self.files.mend}")

    def _load_index(self, resolution: int, split: str) -> np.ndarray:
        if not self.count(split):
            return np.empty(0, ENTRY)  # an empty file cannot be mapped
        return np.memmap(self.files.path(f"index/{split}-{resolution}.entries"), ENTRY, "r", shape=(self.count(split),))


class _File:
    """A file descriptor that lives as long as someone reads from it: dropped from the cache while a thread is inside, it closes later."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __del__(self):
        os.close(self.descriptor)
