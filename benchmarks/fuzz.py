"""Damaged bytes for every reader of data: each ends in one line (DataError) or in the right pictures.

    python benchmarks/fuzz.py --cases 1000                    # of each kind
    python benchmarks/fuzz.py --kinds tar,zip --first 500 --cases 1
    python benchmarks/fuzz_runs.py --cases 1000               # the same for what reads runs, bundles and requests

Case n of a kind is a function of (kind, n): one file of a small valid input is mutated (bits and bytes, numbers of 2, 4 and 8 bytes set to
extremes, cuts, insertions, blocks doubled, moved or zeroed; in JSON also values and names) and read to the end, in a process of its own
that goes on until something happens to it. What is told as a fault, with the kind and number that repeat it:

    traceback     any exception but DataError (of hires, HiresError)
    hang          10 seconds of processor time, or a minute without end
    memory        1 GB more than before the first case
    died          the process was killed, say by a library
    outside       a file made, changed or removed but in the input's own folder
    wrong         a picture given out that is none of the input's, where the format carries checksums: a prepared set, zip, TFRecords
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
import gzip
import io
import mmap
import os
from pathlib import Path
import pickle
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile

import numpy as np
from PIL import Image

from hires.errors import HiresError
from pipelines import DataError, PrepareConfig, Shards, SplitConfig, prepare
from pipelines.codecs import decode
from pipelines.pyramid import square
from pipelines.sources import cifar10, open_source
from pipelines.sources.tfexample import checksum

HANG, STILL, MEMORY = 10.0, 60.0, 1e9  # seconds of the processor, of the clock in which it is not asked for, bytes
COUNT, SIDE = 5, 16
TEXTS = (".json", ".jsonl", ".yaml", ".md")


@dataclass(frozen=True)
class Kind:
    """A kind of input: how a valid one is written into a folder, and how one is read: pictures by name."""

    write: Callable[[Path], None]
    read: Callable[[Path], Iterator[tuple[str, np.ndarray]]]
    checked: bool = False  # whether the format lets a reader know a changed picture


def pictures(count: int = COUNT, channels: int = 3) -> list[np.ndarray]:
    """Smooth ones, uint8 (SIDE, SIDE, channels)."""
    rng = np.random.default_rng(7)
    coarse = [Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)) for _ in range(count)]
    return [np.asarray(one.resize((SIDE, SIDE), Image.Resampling.BICUBIC))[:, :, :channels] for one in coarse]


def encoded(pixels: np.ndarray, form: str, **options: object) -> bytes:
    """A picture's file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def _files(folder: Path, forms: list[tuple[str, dict]]) -> None:
    for i, ((form, options), pixels) in enumerate(zip(forms, pictures(len(forms)), strict=True)):
        (folder / f"{i}.{form.lower()}").write_bytes(encoded(pixels, form, **options))


def _folder(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _files(folder, [("JPEG", {"exif": exif}), ("PNG", {}), ("WEBP", {}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("GIF", {})])


def _tar(folder: Path, form: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(folder / "a.tar", "w", format=form) as out:
        for i, pixels in enumerate(pictures()):
            for name, data in ((f"{'long/' * 30 if i == 2 else ''}ü{i}.png", encoded(pixels, "PNG")), (f"ü{i}.cls", b"3")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                out.addfile(member, io.BytesIO(data))


def _zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w") as out:
        for i, pixels in enumerate(pictures()):
            out.writestr(f"x/{i}{'.png' if i else ''}", encoded(pixels, "PNG"), zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED)


def _lmdb(folder: Path) -> None:
    import lmdb

    with lmdb.open(str(folder), map_size=1 << 22) as made, made.begin(write=True) as change:
        for i in range(80):  # so many that the tree has two levels
            data = encoded(pictures()[i % COUNT], "WEBP", lossless=True) if i % 10 else encoded(np.tile(pictures()[0], (9, 9, 1)), "BMP")
            change.put(f"{i:040x}".encode(), data)
    (folder / "lock.mdb").unlink()


def _tfrecords(folder: Path) -> None:
    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2]) + varint(len(data)) + data

    def varint(value: int) -> bytes:
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    for level in (4, 3):
        records = b""
        for pixels in pictures():
            shrunk = pixels if level == 4 else pixels[::2, ::2]
            shape = b"".join(varint(n) for n in (3, 1 << level, 1 << level))
            data = np.ascontiguousarray(shrunk.transpose(2, 0, 1)).tobytes()
            features = field(1, field(1, b"shape") + field(2, field(3, field(1, shape))))
            features += field(1, field(1, b"data") + field(2, field(1, field(1, data))))
            example = field(1, features)
            head = struct.pack("<Q", len(example))
            records += head + struct.pack("<I", checksum(head)) + example + struct.pack("<I", checksum(example))
        (folder / f"x-r{level:02d}.tfrecords").write_bytes(records)


def _parquet(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"bytes": encoded(pixels, "PNG"), "path": f"{i}.png"} for i, pixels in enumerate(pictures())]
    table = pyarrow.table({"image": rows, "label": list(range(COUNT))})
    parquet.write_table(table, folder / "a.parquet", row_group_size=2, write_page_checksum=True)


def _idx(folder: Path, packed: bool = False) -> None:
    data = b"\0\0\x08\x03" + struct.pack(">III", COUNT, SIDE, SIDE) + b"".join(one.tobytes() for one in pictures(channels=1))
    labels = b"\0\0\x08\x01" + struct.pack(">I", COUNT) + bytes(range(COUNT))
    for name, one in (("images-idx3", data), ("labels-idx1", labels)):
        (folder / f"train-{name}-ubyte{'.gz' if packed else ''}").write_bytes(gzip.compress(one, mtime=0) if packed else one)


def _cifar10(folder: Path) -> None:
    """As published, but of few pictures."""
    for i, (_, name) in enumerate(cifar10.BATCHES):
        pixels = np.random.default_rng(i).integers(0, 256, (cifar10.PER_BATCH, cifar10.VALUES), np.uint8)
        batch = {"data": pixels, "labels": [n % 10 for n in range(len(pixels))], "filenames": ["x.png"] * len(pixels)}
        (folder / name).write_bytes(pickle.dumps(batch, 2))


def _prepared(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source, made = Path(scratch) / "in", Path(scratch) / "out"
        source.mkdir()
        for i in range(COUNT):
            (source / f"{i}.png").write_bytes(encoded(np.tile(pictures()[i], (8, 8, 1)), "PNG"))
        config = PrepareConfig(path=str(source), out=str(made), resolution=128, images_per_shard=2, split=SplitConfig(holdout=1), workers=1)
        prepare(config)
        shutil.rmtree(made / ".prepare")
        shutil.copytree(made, folder, dirs_exist_ok=True)


def from_source(kind: str, inside: str = "") -> Callable[[Path], Iterator[tuple[str, np.ndarray]]]:
    """Reads a source as hires prepare does."""

    def read(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
        source = open_source(kind, str(folder / inside))
        for item in source:
            try:
                levels = source.load_levels(item) if source.levels else [_square(source.load(item), source.channels)]
            except DataError:
                continue  # one bad picture, told
            yield from ((f"{item.key}@{pixels.shape[0]}", pixels) for pixels in levels)

    return read


def _square(image: Image.Image, channels: int) -> np.ndarray:
    try:
        return square(image, SIDE, channels, "box", True)
    except Exception as error:  # as prepare does with what Pillow makes of a picture
        raise DataError(str(error)) from error


def from_shards(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Reads a prepared set as training does, picture by picture."""
    shards = Shards.open(folder)
    for split in ("train", "holdout"):
        keys = shards.keys(split) if shards.count(split) else []
        for i, key in enumerate(keys[: 2 * COUNT]):
            for level in shards.levels[-8:]:
                try:
                    (data,) = shards.read(level, split, [i])
                    yield f"{split} {key}@{level}", decode(data, level, shards.channels)
                except DataError:
                    continue
                except ValueError as error:  # which the loader tells with shard and key
                    shards.place(level, split, i)
                    if "found" not in str(error) and "cannot be" not in str(error):
                        raise


KINDS = {
    "prepared": Kind(_prepared, from_shards, True),
    "folder": Kind(_folder, from_source("folder")),
    "tar": Kind(_tar, from_source("webdataset", "a.tar")),
    "gnu-tar": Kind(lambda folder: _tar(folder, tarfile.GNU_FORMAT), from_source("webdataset", "a.tar")),
    "zip": Kind(_zip, from_source("zip", "a.zip"), True),
    "lmdb": Kind(_lmdb, from_source("lsun")),
    "tfrecords": Kind(_tfrecords, from_source("tfrecords"), True),
    "parquet": Kind(_parquet, from_source("parquet")),
    "idx": Kind(_idx, from_source("idx")),
    "idx.gz": Kind(lambda folder: _idx(folder, True), from_source("idx")),
    "cifar10": Kind(_cifar10, from_source("cifar10")),
}
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
VALUES = ["-1", "0", "1", "4294967296", "9223372036854775808", "1e400", "NaN", "1.5", "null", "true", "[]", "{}"]
VALUES += ['"x"', '"../../x"', '"\\ud800"', "9" * 5000, "[" * 3000 + "]" * 3000, "${run}", "&a [*a]", "2024-01-01", '"']


def mutated(data: bytes, dice: random.Random, text: bool) -> bytes:
    """`data` with one to four changes."""
    data = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        # Headers and directories lie at the ends, where half of the changes are made.
        near = dice.randrange(min(512, len(data)))
        at = dice.choice((dice.randrange(len(data)), dice.randrange(len(data)), near, len(data) - 1 - near))
        end = at + dice.choice((1, 4, 64, 512, dice.randrange(1, 1 + len(data))))
        width = dice.choice((1, 2, 4, 8))
        number = (dice.choice(NUMBERS) + dice.choice((0, 0, 1, -1))) % 2 ** (8 * width)
        match dice.randrange(11 if text else 8):
            case 0:
                data[at] ^= 1 << dice.randrange(8)
            case 1:
                data[at : at + width] = number.to_bytes(width, dice.choice(("little", "big")))
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end][:4096]
            case 4:
                data[at:at] = dice.randbytes(dice.choice((1, 16, 512)))
            case 5:
                data[at:end] = bytes(len(data[at:end]))
            case 6:
                del data[at:]
            case 7:
                other = dice.randrange(len(data))
                data[at : at + 64] = data[other : other + 64]
            case _:
                found = list(re.finditer(rb'"[^"]*"|-?\d+|true|false|null', data))
                one = dice.choice(found)
                data[one.start() : one.end()] = dice.choice(VALUES).encode()
    return bytes(data)


def run_case(kind: str, number: int, valid: Path, place: Path, right: dict[str, bytes]) -> str:
    """What is wrong with how a case was read, '' if nothing is; `place` is a folder that holds nothing else than `in`."""
    dice = random.Random(f"{kind} {number}")
    files = sorted(str(file.relative_to(valid)) for file in valid.rglob("*") if file.is_file())
    name = dice.choice(files if dice.randrange(2) else [file for file in files if file.endswith((*TEXTS, ".keys", ".entries"))] or files)
    good = (valid / name).read_bytes()
    (place / "in" / name).write_bytes(mutated(good, dice, name.endswith(TEXTS)))
    known = set(right.values())
    try:
        for key, pixels in KINDS[kind].read(place / "in"):
            got = pixels.tobytes()
            if KINDS[kind].checked and (got != right.get(key) if kind == "prepared" else got not in known):
                return f"wrong: {key}"
    except (DataError, HiresError) as error:
        if "\n" in str(error):
            return f"traceback: more than a line: {error!r}"
    except TimeoutError:
        return "hang"
    except BaseException as error:
        last = error.__traceback__
        while last.tb_next:
            last = last.tb_next
        at = f"{Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}"
        return f"traceback: {type(error).__name__}: {str(error)[:200]} ({at})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        (place / "in" / name).write_bytes(good)
    found = sorted(str(file.relative_to(place)) for file in place.rglob("*") if file.is_file())
    strange = set(found) ^ {f"in/{file}" for file in files}
    for one in strange & set(found):
        (place / one).unlink()
    return f"outside: {sorted(strange)}" if strange else ""


def fuzz(kind: str, numbers: range, tell: Callable[[int, str], None]) -> None:
    """Runs cases; `tell(number, fault)` hears of each fault."""
    with tempfile.TemporaryDirectory() as scratch:
        valid, place = Path(scratch) / "valid", Path(scratch) / "place"
        valid.mkdir()
        KINDS[kind].write(valid)
        right = {key: pixels.tobytes() for key, pixels in KINDS[kind].read(valid)}
        if not right:
            raise SystemExit(f"{kind}: not even the valid input can be read")
        place.mkdir()
        shutil.copytree(valid, place / "in")
        at = mmap.mmap(-1, 8)  # the case that a child is at
        first = numbers.start
        while first < numbers.stop:
            reading, writing = os.pipe()
            child = os.fork()
            if not child:
                _cases(kind, range(first, numbers.stop), valid, place, right, at, writing)
            os.close(writing)
            first = _watch(child, at, first, numbers.stop, reading, tell)
            for file in valid.rglob("*"):  # what a killed child left mutated
                if file.is_file():
                    shutil.copy(file, place / "in" / file.relative_to(valid))


def _cases(kind: str, numbers: range, valid: Path, place: Path, right: dict, at: mmap.mmap, out: int) -> None:
    """In a child: cases until the end, or until one took too much memory."""

    def ring(*_: object) -> None:
        raise TimeoutError

    try:
        warnings.simplefilter("ignore")
        os.chdir(place)
        signal.signal(signal.SIGPROF, ring)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries say of damaged files
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        resource.setrlimit(resource.RLIMIT_AS, (int(16e9), resource.RLIM_INFINITY))
        for number in numbers:
            at[:8] = struct.pack("<Q", number)
            signal.setitimer(signal.ITIMER_PROF, HANG)  # not of the clock: others may want the processor
            fault = run_case(kind, number, valid, place, right)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            if grown > MEMORY:
                fault = f"memory: {grown / 1e9:.1f} GB"
            if fault:
                os.write(out, f"{number}\t{' '.join(fault.split())}\n".encode(errors="replace"))
            if grown > MEMORY:
                at[:8] = struct.pack("<Q", number + 1)
                os._exit(3)
        at[:8] = struct.pack("<Q", numbers.stop)
    finally:
        os._exit(0)


def _watch(child: int, at: mmap.mmap, first: int, stop: int, reading: int, tell: Callable[[int, str], None]) -> int:
    """Waits for a child, kills one that stands still; the number of the case to go on with."""
    at[:8] = struct.pack("<Q", first)
    seen, since, began = first, time.monotonic(), _doing(child)[1]
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.02)
        now = struct.unpack("<Q", at[:8])[0]
        state, spent = _doing(child)
        if now != seen:
            seen, since, began = now, time.monotonic(), spent
        elif state == "R" and spent - began < 3 * HANG:  # waits for a processor that others have, or a library has not returned yet
            since = time.monotonic()
        elif time.monotonic() - since > STILL or spent - began > 3 * HANG:
            since = 0.0
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
    with os.fdopen(reading, encoding="utf-8") as lines:
        told = [line.rstrip("\n").split("\t", 1) for line in lines]
    for number, fault in told:
        tell(int(number), fault)
    now = struct.unpack("<Q", at[:8])[0]
    if now == stop or (told and int(told[-1][0]) == now - 1):
        return now
    tell(now, "hang" if time.monotonic() - since > STILL else "died")
    return now + 1


def _doing(child: int) -> tuple[str, float]:
    """A process's state, a letter, and the processor's seconds that it has had."""
    fields = Path(f"/proc/{child}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(kinds: str = ",".join(KINDS)) -> int:
    """Fuzzes and prints what was found; 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=kinds)
    parser.add_argument("--cases", type=int, default=200, help="of each kind")
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    cifar10.PER_BATCH = 4
    faults = 0
    print("| kind | cases | faults | seconds |\n| --- | ---: | ---: | ---: |", flush=True)
    for kind in args.kinds.split(","):
        started, found = time.monotonic(), []

        def tell(number: int, fault: str, kind: str = kind, found: list = found) -> None:
            found.append(number)
            print(f"{kind} {number}: {fault}", flush=True)

        fuzz(kind, range(args.first, args.first + args.cases), tell)
        faults += len(found)
        print(f"| {kind} | {args.cases:,} | {len(found)} | {time.monotonic() - started:.0f} |", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
