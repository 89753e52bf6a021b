"""Images a second from disk to training batches: both loaders, each level, against the bare decoders and against torchvision.

    python benchmarks/loader.py --pictures faces1024                        # prepares shards of them, then measures what fits --budget
    python benchmarks/loader.py --pictures faces1024 --data data/faces --levels 64,256,1024 --workers 1,2 --write

Rows are (level, workers); the process is held to as many cores as there are workers. Columns, in images a second:

    bare Pillow     `workers` threads that do nothing but open and decode the level's stored bytes, which lie in memory already
    bare DALI       a pipeline of decoders.image alone on the same bytes, `workers` threads
    Pillow, DALI: cold and warm
                    the loaders with no memory of their own, batch after batch of the training order, into batches that are thrown away;
                    cold: the shards' pages were dropped from the system's cache just before; warm: they are in it
    memory          the loader once it holds the level as uint8
    ImageFolder     torchvision's ImageFolder and DataLoader (`workers` processes) on the original pictures: decode, centre crop, resize

A ratio is the median over rounds of the two rates of one round, since contenders take turns: whatever else the machine does strikes all
alike. `of bare` compares each loader, warm, with its own bare decoder; `x ImageFolder` the faster way that the level is fed in training
(from memory where it fits, else the faster loader). Nothing is asserted: the table is the result.
"""

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
import datetime
from itertools import count
import os
from pathlib import Path
import platform
import statistics
import subprocess
import tempfile
import time

import numpy as np
import torch

from pipelines import Loader, Order, PrepareConfig, Shards, prepare
from pipelines.codecs import decode, open_image

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES = 400e6  # of a level's stored bytes that the bare decoders go round in
BATCH = {4: 64, 8: 64, 16: 64, 32: 64, 64: 64, 128: 32, 256: 16, 512: 8, 1024: 4}  # what a rank of a large run takes at once


def main() -> None:
    """Parses, measures row by row and prints each as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", required=True, help="folder of original pictures")
    parser.add_argument("--data", default="", help="shards made of them; default: prepared in a temporary folder")
    parser.add_argument("--levels", default="", help="such as 64,256,1024; default: all")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contender in each round")
    parser.add_argument("--budget", type=float, default=600, help="seconds after which no further row is begun")
    parser.add_argument("--write", action="store_true", help="put the table into docs/records/data.md")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        data = args.data or _prepared(args.pictures, scratch)
        shards = Shards.open(data)
        levels = [int(level) for level in args.levels.split(",")] if args.levels else shards.levels
        lines = [_header(args, shards)]
        print("\n".join(lines), flush=True)
        cores = sorted(os.sched_getaffinity(0))
        for level in levels:
            for workers in map(int, args.workers.split(",")):
                if time.monotonic() - started > args.budget:
                    print(f"no time left for {level}x{level}, {workers} workers (--budget {args.budget:g})", flush=True)
                    continue
                os.sched_setaffinity(0, cores[:workers])
                lines.append(row(Path(args.pictures), shards, level, workers, args.rounds, args.seconds))
                print(lines[-1], flush=True)
        os.sched_setaffinity(0, cores)
    if args.write:
        write(lines)


def row(pictures: Path, shards: Shards, level: int, workers: int, rounds: int, seconds: float) -> str:
    """One line of the table."""
    blobs = _blobs(shards, level)
    contenders: dict[str, Callable[[], float]] = {
        "bare": lambda: bare_pillow(blobs, level, shards.channels, workers, seconds),
        "pillow": lambda: loader(shards, level, workers, "pillow", seconds),
        "cold": lambda: loader(shards, level, workers, "pillow", seconds, cold=True),
        "folder": lambda: image_folder(pictures, level, workers, seconds),
    }
    if _dali():
        contenders["bare DALI"] = lambda: bare_dali(blobs, level, shards, workers, seconds)
        contenders["dali"] = lambda: loader(shards, level, workers, "dali", seconds)
        contenders["cold DALI"] = lambda: loader(shards, level, workers, "dali", seconds, cold=True)
    memory = Loader(shards, level, "train", 4.0, workers) if shards.count("train") * level * level * shards.channels < 4e9 else None
    if memory:
        memory.read(range(shards.count("train")))
        contenders["memory"] = lambda: from_memory(memory, shards, level, seconds)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            rates[name].append(contender())

    def rate(name: str) -> str:
        return f"{statistics.median(rates[name]):,.0f}" if name in rates else "–"

    def ratio(name: str, to: str) -> float | None:
        if name not in rates or to not in rates:
            return None
        return statistics.median(a / b for a, b in zip(rates[name], rates[to], strict=True))

    def show(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}" if value < 10 else f"{value:,.0f}"

    fed = ratio("memory", "folder") or max(filter(None, (ratio("pillow", "folder"), ratio("dali", "folder"))))
    cells = [f"{level}", str(workers), rate("bare"), f"{rate('cold')} / {rate('pillow')}", show(ratio("pillow", "bare"))]
    cells += [rate("bare DALI"), f"{rate('cold DALI')} / {rate('dali')}", show(ratio("dali", "bare DALI"))]
    return "| " + " | ".join([*cells, rate("memory"), rate("folder"), show(fed)]) + " |"


def bare_pillow(blobs: list[bytes], level: int, channels: int, workers: int, seconds: float) -> float:
    """Images a second of threads that decode bytes in memory and throw the picture away."""
    raw = blobs[0].startswith(b"\x93NUMPY")
    until = time.perf_counter() + seconds

    def go_round(first: int) -> int:
        for done in count():
            if time.perf_counter() > until:
                return done
            blob = blobs[(first + done * workers) % len(blobs)]
            decode(blob, level, channels) if raw else open_image(blob, level, channels)
        raise AssertionError("count() does not end")

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        done = sum(pool.map(go_round, range(workers)))
    return done / (time.perf_counter() - started)


def bare_dali(blobs: list[bytes], level: int, shards: Shards, workers: int, seconds: float) -> float:
    """Images a second of a DALI pipeline that decodes the same bytes and throws the pictures away."""
    from nvidia.dali import fn, pipeline_def, types

    batch = BATCH[level]
    arrays = [np.frombuffer(blob, np.uint8) for blob in blobs]

    @pipeline_def(batch_size=batch, num_threads=workers, device_id=0 if torch.cuda.is_available() else None, prefetch_queue_depth=2)
    def pipeline():
        stream = fn.external_source(lambda i: [arrays[(i * batch + k) % len(arrays)] for k in range(batch)], batch=True, no_copy=True)
        device = "mixed" if torch.cuda.is_available() and shards.codec(level).suffix == "jpg" else "cpu"
        return fn.decoders.image(stream, device=device, output_type=types.RGB if shards.channels == 3 else types.GRAY)

    built = pipeline()
    built.build()
    built.run()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        built.run()
        done += batch
    return done / (time.perf_counter() - started)


def loader(shards: Shards, level: int, workers: int, kind: str, seconds: float, cold: bool = False) -> float:
    """Images a second of a loader that remembers nothing, in the order of training, after its first batch."""
    if cold:
        _drop(shards, level)
    one = Loader(shards, level, "train", 0.0, workers, kind)
    return _rate(one.stream(_plan(shards, level)), BATCH[level], seconds, first_too=cold)


def from_memory(one: Loader, shards: Shards, level: int, seconds: float) -> float:
    """Images a second of a loader that holds the level already."""
    return _rate(one.stream(_plan(shards, level)), BATCH[level], seconds)


def image_folder(pictures: Path, level: int, workers: int, seconds: float) -> float:
    """Images a second of torchvision's usual way from the original pictures."""
    from pipelines.torchvision_cpu import torchvision

    transforms = torchvision.transforms
    steps = [_square, transforms.Resize(level, transforms.InterpolationMode.LANCZOS), transforms.PILToTensor()]
    valid = _within(pictures)
    dataset = torchvision.datasets.ImageFolder(str(pictures.parent), transforms.Compose(steps), is_valid_file=valid, allow_empty=True)
    batch = min(BATCH[level], max(1, len(dataset) // (2 * workers)))
    loading = torch.utils.data.DataLoader(dataset, batch, shuffle=True, num_workers=workers, drop_last=True)

    def endless() -> Iterator[torch.Tensor]:
        while True:
            yield from (images for images, _ in loading)

    return _rate(endless(), batch, max(seconds, 2.0))  # a batch takes long, and starting the processes is left out


def _square(image):
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _within(pictures: Path) -> Callable[[str], bool]:
    inside = str(pictures) + os.sep
    return lambda path: path.startswith(inside) and path.lower().endswith((".jpg", ".jpeg", ".png", ".webp"))


def _rate(batches: Iterator, batch: int, seconds: float, first_too: bool = False) -> float:
    started, done = time.perf_counter(), 0
    if not first_too:
        next(batches)
        started = time.perf_counter()
    while time.perf_counter() - started < seconds or not done:
        next(batches)
        done += batch
    rate = done / (time.perf_counter() - started)
    batches.close()
    return rate


def _plan(shards: Shards, level: int) -> Iterator[np.ndarray]:
    order = Order(shards.shard_sizes("train"), 0)
    return (order.indices(step * BATCH[level], BATCH[level]) for step in count())


def _blobs(shards: Shards, level: int) -> list[bytes]:
    sizes = np.cumsum(shards.entries(level, "train")["size"].astype(np.int64))
    return shards.read(level, "train", range(max(1, int((sizes <= MOST_BYTES).sum()))))


def _drop(shards: Shards, level: int) -> None:
    for number in range(len(shards.shard_sizes("train"))):
        with open(Path(shards.root) / shards.shard_file(level, "train", number), "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _dali() -> bool:
    try:
        import nvidia.dali  # noqa: F401
    except ImportError:
        return False
    return True


def _prepared(pictures: str, scratch: str) -> str:
    out = str(Path(scratch) / "shards")
    from PIL import Image

    with Image.open(next(path for path in sorted(Path(pictures).rglob("*")) if path.suffix.lower() in (".jpg", ".png", ".webp"))) as image:
        top = 1 << (min(image.size).bit_length() - 1)
    prepare(PrepareConfig(path=pictures, out=out, resolution=top))
    return out


def _header(args: argparse.Namespace, shards: Shards) -> str:
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    names = ["level", "workers", "bare Pillow", "Pillow cold / warm", "of bare"]
    names += ["bare DALI", "DALI cold / warm", "of bare", "memory", "ImageFolder", "× ImageFolder"]
    about = f"{shards.count('train')} pictures, codec above 64: {shards.codec(max(shards.levels)).name}; images a second; "
    about += f"median of {args.rounds} rounds of {args.seconds:g} s; {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
    about += f"{'GPU ' + torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}; commit {commit.stdout.strip()}, "
    about += datetime.date.today().isoformat()
    return f"{about}\n\n| " + " | ".join(names) + " |\n|" + " ---: |" * len(names)


def write(lines: list[str]) -> None:
    """Puts the table between the marks in docs/records/data.md."""
    page = ROOT / "docs" / "records" / "data.md"
    begin, end = "<!-- benchmarks/loader.py -->", "<!-- /benchmarks/loader.py -->"
    text = page.read_text(encoding="utf-8")
    before, after = text[: text.index(begin) + len(begin)], text[text.index(end) :]
    page.write_text(f"{before}\n" + "\n".join(lines) + f"\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
