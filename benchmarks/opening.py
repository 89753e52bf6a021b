"""Opening a data set of very many shards, and the first batch of each level, in a process of its own.

    python benchmarks/opening.py                             # 3,034 shards of 1,000 pictures on 7 levels, as of LSUN's bedrooms
    python benchmarks/opening.py --shards 300 --resolution 64

One shard is prepared; the others are links to its files under other names, with an index and a manifest that say so. What is read is not in
the system's cache (`cold`: POSIX_FADV_DONTNEED on the index, the manifest and the shard), or is (`warm`).
"""

import argparse
import hashlib
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

import lsun
import numpy as np
from PIL import Image

from pipelines import Loader, Order, PrepareConfig, Shards, prepare
from pipelines.manifest import MANIFEST
from pipelines.shards import INDEX

BATCH = 64


def widen(folder: Path, count: int) -> None:
    """Of a data set of one shard one of `count` shards."""
    manifest = json.loads((folder / MANIFEST).read_text())
    (one,) = manifest["shards"]["train"]
    names = [f"shard-{number:05d}" for number in range(count)]
    for level in manifest["levels"]:
        for name in names[1:]:
            os.link(folder / f"{level}/{names[0]}.tar", folder / f"{level}/{name}.tar")
        entries = folder / f"index/train-{level}.entries"
        entries.write_bytes(entries.read_bytes() * count)
    keys = folder / "index/train.keys"
    of_one = keys.read_text().splitlines()
    keys.write_text("".join(f"{name}/{key}\n" for name in names for key in of_one))
    index = json.loads((folder / INDEX).read_text())
    index["counts"]["train"] *= count
    for name, found in index["files"].items():
        data = (folder / name).read_bytes()
        found |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(index, indent=1)
    (folder / INDEX).write_text(text)
    manifest["shards"]["train"] = [one | {"name": name} for name in names]
    manifest["counts"]["train"] *= count
    manifest["index"] = {"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def measure(folder: str) -> None:
    """Opens and reads, and prints what it took: seconds until open, then of each level's first batch, by the clock and of the processor."""
    Image.init()  # what libraries import late is not of the data set
    Order([1], 0).indices(0, 1)
    np.unique(np.zeros(1))
    began, spent = time.monotonic(), time.process_time()
    shards = Shards.open(folder)
    order = Order(shards.shard_sizes("train"), 0)
    moments, processor = [time.monotonic() - began], [time.process_time() - spent]
    for level in shards.levels:
        began, spent = time.monotonic(), time.process_time()
        batch = next(Loader(shards, level, workers=2).stream([order.indices(0, BATCH)]))
        assert batch.shape == (BATCH, shards.channels, level, level)
        moments.append(time.monotonic() - began)
        processor.append(time.process_time() - spent)
    print(json.dumps({"levels": shards.levels, "clock": moments, "processor": processor}))


def forget(folder: Path) -> None:
    """Takes a data set's files out of the system's cache."""
    shard = (folder / f"{level}/shard-00000.tar" for level in Shards.open(folder).levels)
    for path in (folder / MANIFEST, folder / INDEX, *(folder / "index").iterdir(), *shard):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> int:
    """Makes the data set, measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=3034)
    parser.add_argument("--pictures", type=int, default=1000, help="in a shard")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch) / "x_train_lmdb", Path(scratch) / "out"
        source.mkdir()
        lsun.write_lmdb(source, args.pictures, args.resolution)
        config = PrepareConfig(source="lsun", path=str(source), out=str(out), resolution=args.resolution, workers=2)
        prepare(config)
        widen(out, args.shards)
        print("load:", *(f"{one:.1f}" for one in os.getloadavg()))
        print(f"{args.shards:,} shards, {args.shards * args.pictures:,} pictures; first batches of {BATCH}, 2 workers\n")
        for row, what in enumerate(("cold", "warm", "warm", "warm")):
            if what == "cold":
                forget(out)
            said = subprocess.run([sys.executable, __file__, "--measure", str(out)], capture_output=True, text=True, check=True).stdout
            found = json.loads(said)
            if not row:
                levels = found["levels"]
                print("| seconds | open |" + "".join(f" {level} |" for level in levels) + " open and the slowest |")
                print("| --- | ---: |" + " ---: |" * (len(levels) + 1))
            for by in ("clock", "processor"):
                opened, *batches = found[by]
                cells = [f"{one:.3f}" for one in (opened, *batches, opened + max(batches))]
                print(f"| {what}, {by} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
