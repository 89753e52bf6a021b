"""One shard at all levels: written beside its place, moved there whole, and noted in a ledger so that it is never made twice."""

from contextlib import ExitStack
from dataclasses import dataclass
import hashlib
import json
import multiprocessing
import os
from pathlib import Path
import tarfile
from typing import Any
import zlib

import numpy as np

from .codecs import codec_of
from .errors import DataError
from .files import from_json, fsync
from .listing import Listing, Shard
from .pyramid import histogram, pyramid, square
from .sources import Item, Source

WORK = ".prepare"  # the folder of ledgers and half-written files
BLOCK = 512  # bytes; tar pads members to it


class Stopped(Exception):
    """Another worker failed, or the user interrupted: nobody needs this shard now."""


@dataclass(frozen=True)
class Job:
    """What all workers share; it reaches them by fork, so nothing of it is copied or pickled."""

    source: Source
    listing: Listing
    out: Path
    levels: list[int]
    identity: dict[str, Any]  # the settings that the bytes depend on
    on_error: str  # fail | skip
    stop: Any  # multiprocessing.Event
    done: Any  # multiprocessing.Value, pictures so far

    def fingerprint(self, shard: Shard) -> str:
        """Changes when the settings or any picture of the shard change."""
        items = [[item.key, item.size, item.stamp] for item in self.listing.items(shard)]
        text = json.dumps([self.identity, items], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def ledger(self, shard: Shard) -> Path:
        """The file that says the shard is finished, and what is in it."""
        return self.out / WORK / f"{shard.name}.json"

    def place(self, shard: Shard, level: int) -> Path:
        """Where the finished shard of a level lies."""
        return self.out / str(level) / f"{shard.name}.tar"


def new_job(source: Source, listing: Listing, out: Path, levels: list[int], identity: dict[str, Any], on_error: str) -> Job:
    """A job of which nothing is done; raises DataError where processes cannot share what they have to."""
    fork = multiprocessing.get_context("fork")
    try:
        stop, done = fork.Event(), fork.Value("q", 0)
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"/dev/shm: no semaphore can be made in it ({reason}); wanted it mounted, writable and not full") from error
    return Job(source, listing, out, levels, identity, on_error, stop, done)


def told(error: OSError, place: object) -> DataError:
    """What to say of a file that failed: its own name where the system gave it, else `place`."""
    return DataError(f"{error.filename or place}: {error.strerror or error}; run hires prepare again once mended")


def finished_shard(job: Job, shard: Shard) -> dict | None:
    """The ledger of a shard that is finished, was made from the same pictures and settings and is still all there; else None.

    None too where it tells of pictures that were skipped, and now they are to end the job: making it again names them.
    """
    try:
        ledger = from_json(job.ledger(shard).read_bytes())
        if ledger["fingerprint"] != job.fingerprint(shard) or (ledger["bad"] and job.on_error == "fail"):
            return None
        whole = all(job.place(shard, int(level)).stat().st_size == found["bytes"] for level, found in ledger["levels"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return ledger if whole else None


def write_shard(job: Job, shard: Shard) -> None:
    """Makes the shard at all levels, then its ledger. Raises DataError naming a bad picture (on_error=fail) or a full disk."""
    try:
        _write(job, shard)
    except OSError as error:
        raise told(error, f"{job.out}: {shard.name}") from error


def _write(job: Job, shard: Shard) -> None:
    channels, identity = job.identity["channels"], job.identity
    keys, bad = [], []
    values = np.zeros((channels, 256), np.int64)
    with ExitStack() as stack:
        codecs = {level: codec_of(level, identity["codec"]) for level in job.levels}
        tars = {level: stack.enter_context(Tar(job.out / WORK / f"{shard.name}-{level}.tar")) for level in job.levels}
        for item in job.listing.items(shard):
            if job.stop.is_set():
                raise Stopped
            try:
                levels = levels_of(job, item)
            except DataError as error:
                if job.on_error == "fail":
                    raise DataError(f"{error} (on_error=skip leaves such pictures out)") from error
                bad.append({"key": item.key, "file": item.name, "reason": str(error)})
            else:
                keys.append(item.key)
                values += histogram(levels[0])
                for pixels in levels:
                    level = pixels.shape[0]
                    tars[level].add(f"{item.key}.{codecs[level].suffix}", codecs[level].encode(pixels))
            with job.done.get_lock():
                job.done.value += 1
    written: dict[str, dict] = {}
    for level, tar in tars.items():
        if keys:
            written[str(level)] = {"bytes": tar.path.stat().st_size, "sha256": tar.sha256(), "entries": tar.entries}
            os.replace(tar.path, job.place(shard, level))
            fsync(job.place(shard, level).parent)
        else:
            tar.path.unlink()
    ledger = {"fingerprint": job.fingerprint(shard), "name": shard.name, "split": shard.split, "keys": keys, "bad": bad}
    write_whole(job.ledger(shard), json.dumps({**ledger, "histogram": values.tolist(), "levels": written}))


def levels_of(job: Job, item: Item) -> list[np.ndarray]:
    """The picture at all levels, from the top down; raises DataError naming it."""
    identity, top = job.identity, job.levels[-1]
    if job.source.levels:
        stored = [pixels for pixels in job.source.load_levels(item) if pixels.shape[0] <= top]
        if not stored or stored[0].shape != (top, top, identity["channels"]):
            found = "x".join(map(str, stored[0].shape)) if stored else f"levels {job.source.levels}"
            raise DataError(f"{item.name}: found {found}; wanted {top}x{top}x{identity['channels']}")
        return [*stored, *list(pyramid(stored[-1]))[1:]]
    image = job.source.load(item)
    try:
        pixels = square(image, top, identity["channels"], identity["filter"], identity["allow_upscale"] or job.source.upscales)
    except Exception as error:  # broken EXIF, a colour profile or mode that Pillow cannot convert, a size that is wrong
        raise DataError(f"{item.name}: {error}") from error
    return list(pyramid(pixels))


class Tar:
    """A tar file being written, the same bytes for the same members: no times, no users, GNU format for long names."""

    def __init__(self, path: Path):
        self.path = path
        self.entries: list[tuple[int, int, int]] = []  # offset, size and CRC-32 of each member's bytes
        self._file = path.open("wb")
        self._offset = 0

    def add(self, name: str, data: bytes) -> None:
        """Appends a member."""
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o444
        header = member.tobuf(tarfile.GNU_FORMAT)
        # as TarFile.addfile, which copies the member and then the data once more: a tenth of the time that small pictures take
        whole = b"".join((header, data, bytes(-len(data) % BLOCK)))
        self._file.write(whole)
        self.entries.append((self._offset + len(header), len(data), zlib.crc32(data)))
        self._offset += len(whole)

    def sha256(self) -> str:
        """Of the closed file, as hex."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def __enter__(self) -> "Tar":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self._file.write(bytes(2 * BLOCK))  # the end of an archive, which fills its last record
            self._file.write(bytes(-(self._offset + 2 * BLOCK) % tarfile.RECORDSIZE))
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()


def write_whole(path: Path, text: str) -> None:
    """Writes a text file so that a reader, even after a crash, finds all of it or none."""
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    fsync(path.parent)
