"""IDX files, as MNIST and Fashion-MNIST come."""

from collections.abc import Iterator
import gzip
import math
from pathlib import Path
import re
import struct
import zlib

import numpy as np
from PIL import Image

from ..errors import DataError
from .base import Item, Source

IMAGES = re.compile(r"(train|t10k|test)-images[-.]idx3-ubyte(\.gz)?")


class IdxSource(Source):
    """IDX files of grey pictures: a folder with train-images-idx3-ubyte[.gz] and t10k-images-idx3-ubyte[.gz], or one such file.

    The key is 'train/00042_7' or 'test/00042_7' where the labels lie beside, else 'train/00042'. Files are read whole into memory (all of
    MNIST: 55 MB). The resolution is the next power of two (28x28: 32), reached by resizing.
    """

    channels = 1

    def __init__(self, path: str):
        """Raises DataError if there is no such file, or one is not as its header says."""
        self.sets = []  # (split, file, uint8 (N, h, w), labels as uint8 (N) or None)
        for file in _files(Path(path)):
            images = _read(file, 3)
            labels_file = _labels_beside(file)
            labels = _read(labels_file, 1) if labels_file else None
            if labels is not None and len(labels) != len(images):
                raise DataError(f"{labels_file}: {len(labels)} labels; wanted {len(images)}, as {file.name} has pictures")
            self.sets.append(("test" if re.search("t10k|test", file.name) else "train", file, images, labels))
        sides = {side for _, _, images, _ in self.sets for side in images.shape[1:]}
        self.resolution = max(4, 1 << (max(sides) - 1).bit_length())
        self.upscales = min(sides) < self.resolution

    def __iter__(self) -> Iterator[Item]:
        for n, (split, file, images, labels) in enumerate(self.sets):
            size, stamp = images[0].size, file.stat().st_mtime_ns
            for i in range(len(images)):
                key = f"{split}/{i:05d}" + ("" if labels is None else f"_{labels[i]}")
                yield Item(key, f"{file}: picture {i}", size, stamp, (n, i))

    def load(self, item: Item) -> Image.Image:
        n, i = item.place
        return Image.fromarray(self.sets[n][2][i])


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"path={path}: not there; wanted a folder with train-images-idx3-ubyte, or one such file")
    found = {}
    for file in sorted(path.iterdir()):  # x before x.gz: the unpacked one is taken
        if match := IMAGES.fullmatch(file.name):
            found.setdefault(match[1], file)
    if not found:
        raise DataError(f"path={path}: no train-images-idx3-ubyte or t10k-images-idx3-ubyte in it, packed (.gz) or not")
    if {"t10k", "test"} <= found.keys():
        raise DataError(f"path={path}: both {found['t10k'].name} and {found['test'].name}; wanted one test set")
    return list(found.values())


def _labels_beside(file: Path) -> Path | None:
    stem = file.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    for name in (stem, stem + ".gz"):
        if name not in (file.name, file.name.removesuffix(".gz")) and (file.parent / name).is_file():
            return file.parent / name
    return None


def _read(file: Path, dimensions: int) -> np.ndarray:
    """The array in `file`, uint8 with `dimensions` axes."""
    what = "pictures" if dimensions == 3 else "labels"
    header = 4 + 4 * dimensions
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as stream:
            head = stream.read(header)
            if len(head) < header or head[:4] != bytes((0, 0, 8, dimensions)):
                found = head[:4].hex(" ") or "nothing"
                raise DataError(f"{file}: starts with {found}; wanted 00 00 08 0{dimensions}, an IDX file of {what}, bytes")
            shape = struct.unpack(f">{dimensions}I", head[4:])
            wanted, data = math.prod(shape), bytearray()
            while len(data) <= wanted and (more := stream.read(1 << 20)):  # and not more, whatever was packed
                data += more
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    sizes = "x".join(map(str, shape))
    if len(data) != wanted or not wanted:
        raise DataError(f"{file}: {sizes} {what} by its header and {len(data)} bytes after it; wanted {wanted or 'at least one'}")
    return np.frombuffer(data, np.uint8).reshape(shape)
