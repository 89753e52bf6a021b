"""A folder of fetched files that stays within its bound, shared by the processes of a machine."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
import fcntl
import hashlib
import logging
import os
from pathlib import Path
import time
from typing import BinaryIO

from .errors import DataError

log = logging.getLogger(__name__)


class Cache:
    """Files under the names of their sha256: shards/, at most `limit` bytes with those being fetched, and index/, which is not bounded.

    A file is written under partial/ by the process that holds the kernel's lock on it, and moved to its place when it is whole. Its
    modification time says when its hash was last seen to be right, its access time when it was last used. Raises DataError if the
    folder cannot be made.
    """

    grace = 10.0  # seconds: what a reader used so recently is not given up for fetching ahead, as other ranks may be some batches behind

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self.shards, self.index, self._partial = folder / "shards", folder / "index", folder / "partial"
        self._started = time.time_ns()
        self._verified: set[Path] = set()  # by this process
        try:
            for made in (self.shards, self.index, self._partial):
                made.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / "lock"):
                self._clean()
                self._free(0, {}, urgent=True)
        except OSError as error:
            raise self._unusable(error) from error

    def open(self, file: Path) -> int | None:
        """A descriptor of a file that was verified, or None if it must be brought."""
        if file not in self._verified:
            return None
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from error
        found, now = os.fstat(descriptor), time.time_ns()
        if now - found.st_atime_ns > 10**9:
            os.utime(descriptor, ns=(now, found.st_mtime_ns))
        return descriptor

    def bring(self, file: Path, size: int, fill: Callable[[BinaryIO], None], worth: Callable[[], Mapping[Path, float]], wait: bool) -> str:
        """Makes `file` be there and verified, by calling `fill` with a file to write unless it is there already.

        Shards that have no `worth` go first to make room, the least recently used before others. The answer is "there"; where not `wait`,
        only those without worth go, and it may be "full", or "busy" where another is bringing the file. Raises DataError if `size` cannot
        ever fit, or as `fill` does.
        """
        if file.parent == self.shards and size > self.limit:
            raise DataError(f"{self.folder}: may take {self.limit / 1e9:g} GB (data.remote_gb); one shard takes {size / 1e9:g} GB")
        try:
            return self._bring(file, size, fill, worth, wait)
        except OSError as error:
            raise self._unusable(error) from error

    def _bring(self, file: Path, size: int, fill: Callable, worth: Callable, wait: bool) -> str:
        place = self._partial / file.name
        with locked(place, wait) as partial:
            if partial is None:
                return "busy"
            moved = False
            try:
                if not self._is_whole(file, size):
                    if file.parent == self.shards and not self._reserve(partial, size, worth, wait):
                        return "full"
                    fill(partial)
                    _used_now(partial.fileno())
                    os.replace(place, file)
                    moved = True
                self._verified.add(file)
                return "there"
            finally:
                if not moved:
                    place.unlink()

    def _unusable(self, error: OSError) -> DataError:
        reason = f"{self.folder}: cannot be used for fetched files ({error.strerror or error})"
        return DataError(f"{reason}; set data.remote_cache= to a folder that can be written")

    def _is_whole(self, file: Path, size: int) -> bool:
        """Whether the file is there and right: its hash is computed, unless some process did since this one began."""
        try:
            with file.open("rb") as opened:
                found = os.fstat(opened.fileno())
                known = file in self._verified or found.st_mtime_ns > self._started
                if found.st_size == size and (known or hashlib.file_digest(opened, "sha256").hexdigest() == file.name):
                    _used_now(opened.fileno())
                    return True
        except FileNotFoundError:
            return False
        log.warning("%s: damaged (%d bytes; wanted %d, and the hash that is its name); fetched again", file, found.st_size, size)
        file.unlink(missing_ok=True)
        return False

    def _reserve(self, partial: BinaryIO, size: int, worth: Callable[[], Mapping[Path, float]], wait: bool) -> bool:
        while True:
            with locked(self.folder / "lock"):
                if self._free(size, worth(), urgent=wait):
                    partial.truncate(size)  # which counts from here on
                    return True
            if not wait:
                return False
            time.sleep(0.05)  # all the room is taken by what other processes are fetching, and will be free once they have

    def _free(self, size: int, worth: Mapping[Path, float], urgent: bool) -> bool:
        """Removes shards until `size` bytes have room; false, and nothing removed, if that cannot be."""
        used, old = sum(entry.stat().st_size for entry in _scan(self._partial)), []
        for entry in _scan(self.shards):
            found, file = entry.stat(), self.shards / entry.name
            used += found.st_size
            if urgent or (file not in worth and time.time_ns() - found.st_atime_ns > self.grace * 1e9):
                old.append((worth.get(file, 0.0), found.st_atime_ns, found.st_size, file))
        lack = used + size - self.limit
        if sum(bytes_ for _, _, bytes_, _ in old) < lack:
            return False
        for _, _, bytes_, file in sorted(old):
            if lack <= 0:
                break
            file.unlink(missing_ok=True)
            lack -= bytes_
        return True

    def _clean(self) -> None:
        """Removes what killed processes left half fetched."""
        for entry in _scan(self._partial):
            with locked(Path(entry.path), wait=False) as partial:
                if partial is not None:
                    os.unlink(entry.path)


def _used_now(descriptor: int) -> None:
    """Sets both times by the clock that `open` reads; the kernel's own is milliseconds behind, which could reverse the order of use."""
    os.utime(descriptor, ns=(time.time_ns(), time.time_ns()))


def _scan(folder: Path) -> list[os.DirEntry]:
    """The files of a folder, their sizes and times read; those that go meanwhile are left out."""
    entries = []
    for entry in os.scandir(folder):
        try:
            entry.stat()  # kept by the entry
        except FileNotFoundError:
            continue
        entries.append(entry)
    return entries


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[BinaryIO | None]:
    """The file at `path`, made if need be, while no other process or thread has it; None where another has it and `wait` is false."""
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield None
                return
            try:
                if _is_at(file, path):
                    yield file
                    return
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing would not do, where a forked process has the descriptor too


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether the opened file still has that name: who had the lock before may have moved it to its place."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
