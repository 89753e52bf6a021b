"""Preparing an lmdb of very many small pictures: memory, and the rate beside that of the bare codec.

    python benchmarks/lsun.py --entries 1000000
    python benchmarks/lsun.py --entries 20000 --resolution 64
    python benchmarks/lsun.py --minutes 10    # a million listed, and as many of them prepared as ten minutes allow

The lmdb is made as LSUN's are. Bare: the same number of processes that decode, crop, shrink and encode the same pictures at all levels, and
neither read nor write a file. Rates are told by the clock and by the processor's time, which other work on the machine changes less.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
import hashlib
import io
import multiprocessing
import os
from pathlib import Path
import resource
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from pipelines import PrepareConfig, prepare
from pipelines.codecs import codec_of
from pipelines.pyramid import levels_up_to, pyramid, square

KINDS, BATCH = 50, 1000  # pictures that are not alike, entries a transaction
CODEC = PrepareConfig().codec


class Enough(Exception):
    """The time is over."""


def picture(number: int, side: int) -> bytes:
    """A smooth picture as WebP, as LSUN's are."""
    coarse = Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8))
    out = io.BytesIO()
    coarse.resize((side + side // 3, side), Image.Resampling.BICUBIC).save(out, "WEBP", quality=90)
    return out.getvalue()


def write_lmdb(folder: Path, entries: int, side: int) -> None:
    """An lmdb of `entries` pictures under keys of 40 hexadecimal digits, which lie in no order of the pictures."""
    import lmdb

    values = [picture(number, side) for number in range(KINDS)]
    keys = sorted(hashlib.sha1(b"%d" % number).hexdigest().encode() for number in range(entries))
    with lmdb.open(str(folder), map_size=1 << 36) as made:
        for first in range(0, entries, BATCH):
            with made.begin(write=True) as change:
                for number in range(first, min(first + BATCH, entries)):
                    change.put(keys[number], values[number % KINDS], append=True)


def bare(count: int, side: int) -> float:
    """Seconds of the processor for `count` pictures decoded, cropped, shrunk and encoded at all levels."""
    values = [picture(number, side) for number in range(KINDS)]
    codecs = {level: codec_of(level, CODEC) for level in levels_up_to(side)}
    began = time.process_time()
    for number in range(count):
        top = square(Image.open(io.BytesIO(values[number % KINDS])), side, 3, "lanczos", False)
        for pixels in pyramid(top):
            codecs[pixels.shape[0]].encode(pixels)
    return time.process_time() - began


def main() -> int:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e9, help="of preparing, once all is listed; then it is ended")
    args = parser.parse_args()
    side, count = args.resolution, min(args.entries, 20_000) // args.workers
    print("load before:", *(f"{one:.1f}" for one in os.getloadavg()))
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch) / "x_train_lmdb", Path(scratch) / "out"
        source.mkdir()
        write_lmdb(source, args.entries, side)
        began = time.monotonic()
        with ProcessPoolExecutor(args.workers, multiprocessing.get_context("fork")) as pool:
            spent = sum(pool.map(bare, [count] * args.workers, [side] * args.workers))
        clock, spent = (time.monotonic() - began) / (count * args.workers), spent / (count * args.workers)
        done, listed, listing = args.entries, 0.0, 0.0
        before, began = _processor(), time.monotonic()

        def progress(count: int, total: int | None) -> None:
            nonlocal done, listed, listing, before, began
            if total and not listed:
                listed, at = time.monotonic(), _processor()
                listing = listed - began
                if args.minutes < 1e9:  # listing is not of the few that will be prepared
                    before, began = at, listed
            if listed and time.monotonic() - listed > 60 * args.minutes:
                done = count
                raise Enough

        with suppress(Enough):
            prepare(PrepareConfig(source="lsun", path=str(source), out=str(out), resolution=side, workers=args.workers), progress)
        its_clock, its_spent = (time.monotonic() - began) / done, (_processor() - before) / done
        own, workers = (resource.getrusage(who).ru_maxrss / 1e6 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"entries {args.entries:,} at {side}x{side}, {done:,} of them prepared, {args.workers} workers; listed in {listing:.0f} s")
    print(f"bare codec: {1 / clock:,.0f} pictures/s by the clock, {1 / spent:,.0f} per second of a processor")
    print(f"prepare:    {1 / its_clock:,.0f} pictures/s by the clock, {1 / its_spent:,.0f} per second of a processor")
    print(f"of bare:    {clock / its_clock:.2f} by the clock, {spent / its_spent:.2f} by the processor")
    print(f"memory: {own:.2f} GB, a worker {workers:.2f} GB")
    return 0


def _processor() -> float:
    """Seconds of the processor, of this process and of those that have ended."""
    return sum(one.ru_utime + one.ru_stime for one in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


if __name__ == "__main__":
    sys.exit(main())
