"""Whether the pictures of a source are still those that a finished data set was made of."""

import json
import os
from pathlib import Path
import tempfile
from typing import Any
import zlib

import numpy as np

from .codecs import codec_of, decode
from .errors import DataError
from .files import from_json
from .listing import Other, Shard, SplitConfig, write_listing
from .pool import Progress, on_shards
from .shards import Shards
from .sources import Source
from .writing import Job, Stopped, levels_of, new_job, told, write_whole


def compare(source: Source, out: Path, manifest: dict[str, Any], split: SplitConfig, workers: int, progress: Progress | None) -> str:
    """What was compared, for a person, where `source` still is what the data set in `out` was made of; raises DataError where it is not.

    Names and sizes always; times by the ledgers, where they are; and of shards of which a file was written since, the pictures themselves.
    """
    seen = (lambda count: progress(count, None)) if progress else None
    dealt, fingerprint = manifest["settings"]["images_per_shard"], manifest["source"]["fingerprint"]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            listing = write_listing(source, Path(scratch), split, dealt, "skip", seen, fingerprint)
        except OSError as error:
            raise told(error, scratch) from error
        except Other as error:
            raise DataError(f"{out}: made of other pictures, by names or sizes: choose another out=, or remove that folder") from error
        job = new_job(source, listing, out, manifest["levels"], manifest["settings"], "skip")
        ledgers = {shard: _ledger(job, shard) for shard in listing.shards}
        touched = [shard for shard, ledger in ledgers.items() if ledger and ledger["fingerprint"] != job.fingerprint(shard)]
        try:
            Shards.open(out)
        except DataError:
            return ""  # to be mended: such shards are then made anew
        on_shards(same_pictures, job, touched, workers, progress)
        for shard in touched:  # so that they need not be compared again
            write_whole(job.ledger(shard), json.dumps({**ledgers[shard], "fingerprint": job.fingerprint(shard)}))
        if not all(ledgers.values()):
            return "names and sizes"
        count = sum(shard.images for shard in touched)
        return f"names and sizes, and {count:,} pictures in shards of which a file was written since" if count else "names, sizes and times"


def same_pictures(job: Job, shard: Shard) -> None:
    """Raises DataError naming the first picture of the shard that is not the one in the data set, on any level."""
    ledger = _ledger(job, shard)
    rows = {key: row for row, key in enumerate(ledger["keys"])}
    for item in job.listing.items(shard):
        if job.stop.is_set():
            raise Stopped
        try:
            levels = levels_of(job, item)
        except DataError:
            levels = []  # skipped then, too?
        row = rows.get(item.key)
        if bool(levels) != (row is not None) or not all(_same(job, shard, ledger, row, pixels) for pixels in levels):
            raise DataError(f"{job.out}: made of another {item.name}, of the same size: choose another out=, or remove that folder")
        with job.done.get_lock():
            job.done.value += 1


def _same(job: Job, shard: Shard, ledger: dict[str, Any], row: int, pixels: np.ndarray) -> bool:
    """By the bytes that would be written, or, where another version of the encoder writes others, by what they decode to."""
    level, channels = pixels.shape[0], pixels.shape[2]
    data = codec_of(level, job.identity["codec"]).encode(pixels)
    offset, size, crc = ledger["levels"][str(level)]["entries"][row]
    if zlib.crc32(data) == crc:
        return True
    with job.place(shard, level).open("rb") as file:
        stored = os.pread(file.fileno(), size, offset)
    return np.array_equal(decode(data, level, channels), decode(stored, level, channels))


def _ledger(job: Job, shard: Shard) -> dict[str, Any] | None:
    try:
        return from_json(job.ledger(shard).read_bytes())
    except (OSError, ValueError):
        return None
