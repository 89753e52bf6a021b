"""What the webdataset package costs as a loader, in our order: why `loader=pillow` does not read through it.

    python benchmarks/webdataset_loader.py --data data/faces1024 --write

Contenders take turns and fill the same batches, in threads of this process; a rate is pictures per second of processor time, which other
work on the machine disturbs least, and a ratio the median over rounds of two rates of one round:

    records       webdataset's tar reading of the wanted members' own bytes, its grouping, its pipeline and its "rgb8" decoder
    decoder       our reading by the index, its pipeline and its "rgb8" decoder
    pipeline      our reading and decoding, its pipeline alone

Before anything is timed, each must give the pictures of `loader=pillow` to the last byte.
"""

import argparse
from collections.abc import Iterator
import datetime
import io
from itertools import count
import os
from pathlib import Path
import platform
import statistics
import subprocess
import time

from loader import BATCH
import numpy as np
import webdataset
from webdataset import autodecode, filters, tariterators

from pipelines import Order, Shards
from pipelines.decoders.pillow import PillowDecoder, decode_into

BEGIN, END = "<!-- benchmarks/webdataset_loader.py -->", "<!-- /benchmarks/webdataset_loader.py -->"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "records" / "data.md"
BLOCK = 512  # bytes; a tar's


class Decoder(PillowDecoder):
    """Our index, threads and batches, webdataset's decoder."""

    def samples(self, indices: np.ndarray) -> Iterator[dict]:
        """As webdataset knows them: a key, and bytes by suffix."""
        keys = indices.tolist()
        yield from ({"__key__": key, self.suffix: data} for key, data in zip(keys, self.shards.read(*self.level, indices), strict=True))

    @property
    def level(self) -> tuple[int, str]:
        """Resolution and split."""
        return self.resolution, self.split

    def stages(self, indices: np.ndarray) -> list:
        """What comes before decoding."""
        return [lambda: self.samples(indices)]

    def handler(self) -> autodecode.ImageHandler:
        """What decodes; its own other handlers, which unpickle, are left out."""
        return autodecode.imagehandler("rgb8" if self.shards.channels == 3 else "l8")

    def _decode(self, indices: np.ndarray, target: np.ndarray) -> None:
        decoding = filters.decode(self.handler(), pre=[], post=[])
        for slot, sample in enumerate(webdataset.DataPipeline(*self.stages(indices), decoding)):
            target[slot] = sample[self.suffix].reshape(target[slot].shape)


class Records(Decoder):
    """The wanted members of the shards, headers and all, as one tar."""

    def streams(self, indices: np.ndarray) -> Iterator[dict]:
        """As webdataset's url_opener gives them."""
        entries, parts = self.shards.entries(*self.level)[indices].tolist(), []
        for number, (offset, size, _) in zip(self.shards.shard_numbers(self.split, indices), entries, strict=True):
            with open(self.shards.files.path(self.shards.shard_file(*self.level, number)), "rb") as file:
                parts.append(os.pread(file.fileno(), BLOCK + -(-size // BLOCK) * BLOCK, offset - BLOCK))
        yield {"url": self.shards.root, "stream": io.BytesIO(b"".join([*parts, bytes(2 * BLOCK)]))}

    def stages(self, indices: np.ndarray) -> list:
        """Its own way from a stream to samples."""
        return [lambda: self.streams(indices), tariterators.tar_file_expander, tariterators.group_by_keys]


class Pipeline(Decoder):
    """Our decoding as a handler of webdataset's."""

    def handler(self):
        """Decodes as `loader=pillow` does."""

        def ours(key: str, data: bytes) -> np.ndarray:
            pixels = np.empty((self.resolution, self.resolution, self.shards.channels), np.uint8)
            decode_into(pixels, data, self.suffix)
            return pixels

        return ours


CONTENDERS = {"pillow": PillowDecoder, "records": Records, "decoder": Decoder, "pipeline": Pipeline}


def rate(one: PillowDecoder, seconds: float) -> float:
    """Pictures a second of processor time, in the order of training, after the first batch."""
    order, batch = Order(one.shards.shard_sizes("train"), 0), BATCH[one.resolution]
    stream = one.stream(order.indices(step * batch, batch) for step in count())
    next(stream)
    started, done = time.process_time(), 0
    while time.process_time() - started < seconds or not done:
        next(stream)
        done += batch
    found = done / (time.process_time() - started)
    stream.close()
    return found


def row(shards: Shards, level: int, workers: int, rounds: int, seconds: float) -> str:
    """One line of the table."""
    ones = {name: kind(shards, level, "train", workers) for name, kind in CONTENDERS.items()}
    some = [np.arange(min(16, shards.count("train")))]
    wanted = next(ones["pillow"].stream(some))
    for name, one in ones.items():
        if not np.array_equal(next(one.stream(some)), wanted):
            raise SystemExit(f"{name} gives other pictures than pillow at {level}x{level}")
    rates = {name: [] for name in ones}
    for _ in range(rounds):
        for name, one in ones.items():
            rates[name].append(rate(one, seconds))
    ratios = [statistics.median(a / b for a, b in zip(rates[name], rates["pillow"], strict=True)) for name in list(ones)[1:]]
    return f"| {level} | {workers} | {statistics.median(rates['pillow']):,.0f} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |"


def main() -> None:
    """Parses, measures and prints, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="what hires prepare made")
    parser.add_argument("--levels", default="64,256,1024")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of processor time, of each contender in each round")
    parser.add_argument("--write", action="store_true", help="put the table into docs/records/data.md")
    args = parser.parse_args()
    shards = Shards.open(args.data)
    commit = subprocess.run(["git", "-C", str(PAGE.parent), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    lines = [
        f"{shards.count('train')} pictures; webdataset {webdataset.__version__}; medians of {args.rounds} rounds of {args.seconds:g} s of "
        f"processor time; {platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}; "
        f"commit {commit.stdout.strip()}, {datetime.date.today().isoformat()}",
        "",
        "| level | workers | pillow, pictures/s | records / pillow | decoder / pillow | pipeline / pillow |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    print("\n".join(lines), flush=True)
    for level in map(int, args.levels.split(",")):
        for workers in map(int, args.workers.split(",")):
            lines.append(row(shards, level, workers, args.rounds, args.seconds))
            print(lines[-1], flush=True)
    if args.write:
        text = PAGE.read_text(encoding="utf-8")
        before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
        PAGE.write_text(f"{before}\n" + "\n".join(lines) + f"\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
