"""ProGAN's TFRecord files, one a resolution, read without TensorFlow."""

from collections.abc import Iterator
from itertools import zip_longest
import os
from pathlib import Path
import re
import struct

import numpy as np
from PIL import Image

from ..errors import DataError
from .base import Item, Source, per_process
from .tfexample import checksum, parse

LEVEL = re.compile(r"(.*)-r([1-9]\d|0[2-9])\.tfrecords")
HEADER, FOOTER = 12, 4  # bytes: length (8) and its checksum (4); the data's checksum (4)


class TFRecordsSource(Source):
    """ProGAN's NAME-r02.tfrecords ... NAME-r10.tfrecords: the same pictures in the same order, 4x4 to 1024x1024, uint8 CHW.

    `path` is a folder of them, or one file, which is then the top level alone. The key is the record's number ('00000017'). Listing reads
    the 12 bytes before each record, not the pictures; `load` reads one record of one file and checks its CRC32C.
    """

    def __init__(self, path: str):
        """Raises DataError if there is no such file, a level between two others is missing, or the first record is not a picture."""
        self.files = _files(Path(path))  # from the top down
        offset, length = next(_offsets(self.files[0]))
        with self.files[0].open("rb") as stream:
            top = _picture(self.files[0], stream.fileno(), offset, length, 0)
        self.channels, self.resolution = top.shape[2], top.shape[0]
        self.levels = tuple(self.resolution >> i for i in range(len(self.files))) if len(self.files) > 1 else ()

    def __iter__(self) -> Iterator[Item]:
        stamp = max(file.stat().st_mtime_ns for file in self.files)
        for i, found in enumerate(zip_longest(*map(_offsets, self.files))):
            if None in found:
                self._refuse_counts()
            place = tuple(n for record in found for n in record)
            yield Item(f"{i:08d}", f"{self.files[0]}: record {i}", sum(place[1::2]), stamp, place)

    def load(self, item: Item) -> Image.Image:
        pixels = self._level(item, 0)
        return Image.fromarray(pixels[:, :, 0] if self.channels == 1 else pixels)

    def load_levels(self, item: Item) -> list[np.ndarray]:
        """The stored levels only, contiguous from the top down to the lowest file there is: uint8 (r, r, C) each, as they were written."""
        return [self._level(item, i) for i in range(len(self.files))]

    def _level(self, item: Item, i: int) -> np.ndarray:
        try:
            handle = per_process(os.open, str(self.files[i]), os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{self.files[i]}: cannot be read ({error.strerror})") from error
        pixels = _picture(self.files[i], handle, item.place[2 * i], item.place[2 * i + 1], int(item.key))
        wanted = (self.resolution >> i, self.resolution >> i, self.channels)
        if pixels.shape != wanted:
            raise DataError(f"{self.files[i]}: record {int(item.key)}: shape (H, W, C) {pixels.shape}; wanted {wanted}, as the others")
        return pixels

    def _refuse_counts(self) -> None:
        counts = {file.name: sum(1 for _ in _offsets(file)) for file in self.files}
        least, most = min(counts, key=counts.get), max(counts, key=counts.get)
        raise DataError(
            f"{self.files[0].parent}: {counts[least]} records in {least}, {counts[most]} in {most}; wanted the same pictures on each level"
        )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"path={path}: not there; wanted a folder of NAME-r02.tfrecords ... NAME-r10.tfrecords, or one such file")
    matches = [match for file in path.iterdir() if (match := LEVEL.fullmatch(file.name))]
    found, names = {int(match[2]): path / match[0] for match in matches}, sorted({match[1] for match in matches})
    if not found:
        raise DataError(f"path={path}: no file is named as NAME-r10.tfrecords; wanted such files, or path= of one file")
    if len(names) > 1:
        raise DataError(f"path={path}: holds {' and '.join(names)}; wanted one set to a folder")
    for level in range(min(found), max(found)):
        if level not in found:
            raise DataError(f"{path / f'{names[0]}-r{level:02d}.tfrecords'}: missing, while lower and higher levels are there")
    return [found[level] for level in sorted(found, reverse=True)]


def _offsets(file: Path) -> Iterator[tuple[int, int]]:
    """(offset of the record, bytes of its data) of each record."""
    try:
        with file.open("rb") as stream:
            end = os.fstat(stream.fileno()).st_size
            offset = number = 0
            while offset < end or not end:
                length = _length(file, os.pread(stream.fileno(), HEADER, offset), offset, end, number)
                yield offset, length
                offset, number = offset + HEADER + length + FOOTER, number + 1
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error


def _length(file: Path, header: bytes, offset: int, end: int, number: int) -> int:
    if len(header) == HEADER and struct.unpack_from("<I", header, 8)[0] != checksum(header[:8]):
        raise DataError(f"{file}: record {number}: its length is damaged (CRC32C differs), so those after it cannot be found")
    length = struct.unpack_from("<Q", header)[0] if len(header) == HEADER else 0
    if len(header) < HEADER or offset + HEADER + length + FOOTER > end:
        raise DataError(f"{file}: record {number} is cut short: it starts at byte {offset} and the file ends at byte {end}")
    return length


def _picture(file: Path, handle: int, offset: int, length: int, number: int) -> np.ndarray:
    """The record's picture, uint8 (r, r, C)."""
    name = f"{file}: record {number}"
    try:
        data = os.pread(handle, length + FOOTER, offset + HEADER)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror})") from error
    if len(data) < length + FOOTER:
        raise DataError(f"{name} is cut short: {len(data)} bytes; wanted {length + FOOTER}")
    if struct.unpack_from("<I", data, length)[0] != checksum(data[:length]):
        raise DataError(f"{name}: damaged (CRC32C differs)")
    shape, pixels = parse(data[:length], name)
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2] or shape[0] * shape[1] * shape[2] != len(pixels):
        raise DataError(f"{name}: shape {list(shape)} and {len(pixels)} bytes; wanted [1 or 3, r, r] and a byte for each value")
    return np.ascontiguousarray(np.frombuffer(pixels, np.uint8).reshape(shape).transpose(1, 2, 0))
