"""A prepared data set on disk, opened and checked."""

from collections.abc import Sequence
import functools
import json
import os
from pathlib import Path

import numpy as np

from .errors import DataError

FORMAT = 1
SPLITS = ("train", "holdout")
MANIFEST = "manifest.json"
OPEN_FILES = 64  # an epoch touches Order.window shards at a time; ulimits start at 256


class Shards:
    """A folder that `hires prepare` wrote: levels of webdataset shards, each with the same pictures in the same order."""

    def __init__(self, path: Path, manifest: dict):
        self.path, self.manifest = path, manifest
        self.levels: list[int] = manifest["levels"]
        self.channels: int = manifest["channels"]
        self._starts = {split: np.cumsum([0, *self.shard_sizes(split)]) for split in SPLITS}
        self._open = functools.lru_cache(maxsize=OPEN_FILES)(_File)
        self._index = functools.cache(self._load_index)

    @classmethod
    def open(cls, path: str | Path) -> "Shards":
        """The data set at `path`; raises DataError if it is missing, unfinished, of another format, or a file is missing or cut short."""
        path = Path(path)
        if not path.is_dir():
            raise DataError(f"{path}: no such folder; wanted a data set, make it with hires prepare out={path}")
        shards = cls(path, read_manifest(path))
        for split in SPLITS:
            for shard in shards.manifest["shards"][split]:
                for level, found in shard["levels"].items():
                    _check_size(path / level / f"{shard['name']}.tar", found["bytes"])
        for name, size in shards.manifest["index"].items():
            _check_size(path / "index" / name, size)
        return shards

    def count(self, split: str) -> int:
        """Number of pictures in `split` (train | holdout)."""
        return self.manifest["counts"][split]

    def shard_sizes(self, split: str) -> list[int]:
        """Number of pictures in each shard of `split`, in order; the same on every level."""
        return [shard["images"] for shard in self.manifest["shards"][split]]

    def keys(self, split: str) -> list[str]:
        """The keys of all pictures of `split`, in order."""
        return (self.path / "index" / f"{split}.keys").read_text(encoding="utf-8").splitlines()

    def require_level(self, resolution: int) -> None:
        """Raises DataError unless the level `resolution` was prepared."""
        if resolution not in self.levels:
            there = ", ".join(map(str, self.levels))
            raise DataError(f"{self.path}: no level {resolution}, it has {there}; prepare one that has it in another out=")

    def read(self, resolution: int, split: str, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """The stored bytes of pictures `indices` (each in 0..count-1) of a level, in that order, from any thread or forked process.

        Raises DataError if there is no such level or a shard ends too early, IndexError for an index out of range.
        """
        self.require_level(resolution)
        wanted = np.asarray(indices, dtype=np.int64)
        index = self._index(resolution, split)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(index)):
            raise IndexError(f"pictures {wanted.min()}..{wanted.max()} of {len(index)} in {split}")
        out = []
        for number, (offset, size) in zip(self._shard_numbers(split, wanted), index[wanted].tolist(), strict=True):
            file = self._file(resolution, split, number)
            opened = self._open(file)  # held by name: another thread may drop it from the cache while we read
            data = os.pread(opened.descriptor, size, offset)
            if len(data) != size:
                found = os.fstat(opened.descriptor).st_size
                raise DataError(f"{file}: cut short at {found} bytes while in use; wanted {offset + size}, run hires prepare again")
            out.append(data)
        return out

    def shard_of(self, resolution: int, split: str, index: int) -> Path:
        """The file that holds picture `index` of `split` on a level."""
        return self._file(resolution, split, self._shard_numbers(split, index)[0])

    def _shard_numbers(self, split: str, indices: np.ndarray | int) -> list[int]:
        return (np.searchsorted(self._starts[split], np.atleast_1d(indices), side="right") - 1).tolist()

    def _file(self, resolution: int, split: str, number: int) -> Path:
        return self.path / str(resolution) / f"{self.manifest['shards'][split][number]['name']}.tar"

    def _load_index(self, resolution: int, split: str) -> np.ndarray:
        if not self.count(split):
            return np.empty((0, 2), np.int64)  # an empty file cannot be mapped
        return np.memmap(self.path / "index" / f"{split}-{resolution}.offsets", "<i8", "r", shape=(self.count(split), 2))


def read_manifest(path: Path) -> dict:
    """The manifest in folder `path`; raises DataError if there is none, which means unfinished, or one of another format."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: not finished (no {MANIFEST}): run hires prepare again") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path / MANIFEST}: cannot be read ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else "none"
        raise DataError(f"{path / MANIFEST}: format {found}; wanted format {FORMAT}")
    return manifest


class _File:
    """A file descriptor that lives as long as someone reads from it: dropped from the cache while a thread is inside, it closes later."""

    def __init__(self, path: Path):
        self.descriptor = -1
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{path}: cannot be opened ({error.strerror})") from error

    def __del__(self):
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _check_size(file: Path, wanted: int) -> None:
    try:
        found = file.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{file}: missing; wanted {wanted} bytes, run hires prepare again") from None
    if found != wanted:
        raise DataError(f"{file}: {found} bytes; wanted {wanted}, run hires prepare again")
