"""A zip file of pictures."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
import struct
import zipfile
import zlib

from PIL import Image

from ..errors import DataError
from .archives import is_hidden, open_at, read_at, relative
from .base import FORMATS, MAGIC, START, SUFFIXES, Item, Source, decode_picture, left_out_as, per_process, safe_key, stem

LOCAL = struct.Struct("<4s22xHH")  # of a member's own header: signature, bytes of its name and of the fields after it


class ZipSource(Source):
    """All pictures in a zip, at any depth, stored or deflated: those of a picture's ending, and those whose bytes begin as one's.

    Hidden files and __MACOSX are left out, nothing is extracted.

    Listing holds the zip's directory in memory, in the listing process alone: a member is then found by its offset.
    """

    def __init__(self, path: str):
        """Raises DataError if there is no such file."""
        self.path = path
        if not path or not Path(path).is_file():
            raise DataError(f"path={path}: no such file; wanted a zip of pictures")

    def __iter__(self) -> Iterator[Item]:
        stamp, found = Path(self.path).stat().st_mtime_ns, False
        self.left_out = Counter()
        with self._opened() as archive:
            for info in archive.filelist:
                if not info.filename or info.filename.endswith("/"):  # is_dir() trips over a member without a name
                    continue
                if is_hidden(info.filename):
                    self.left_out["hidden"] += 1
                    continue
                if not (info.filename.lower().endswith(SUFFIXES) or MAGIC.match(_start(archive, info))):
                    self.left_out[left_out_as(info.filename)] += 1
                    continue
                found = True
                key = safe_key(stem(relative(info.filename)))
                place = (info.header_offset, info.compress_size, info.file_size, info.compress_type, info.flag_bits, info.CRC)
                yield Item(key, f"{self.path}: {info.filename}", info.compress_size, stamp, place)
        if not found:
            raise DataError(f"path={self.path}: no picture in it; wanted {', '.join(FORMATS)}")

    def load(self, item: Item) -> Image.Image:
        header, packed, size, method, flags, crc = item.place
        if flags & 1:
            raise DataError(f"{item.name}: encrypted; wanted a zip without a password")
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            name = zipfile.compressor_names.get(method, f"method {method}")  # type: ignore[attr-defined]
            raise DataError(f"{item.name}: compressed by {name}; wanted it stored or deflated")
        handle = per_process(open_at, self.path)
        signature, name_bytes, extra_bytes = LOCAL.unpack(read_at(handle, header, LOCAL.size, item))
        if signature != zipfile.stringFileHeader:  # type: ignore[attr-defined]
            raise DataError(f"{item.name}: no member starts at byte {header}; the zip is damaged, or has changed since it was listed")
        data = read_at(handle, header + LOCAL.size + name_bytes + extra_bytes, packed, item)
        if method == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)  # and not more, whatever was packed
            except zlib.error as error:
                raise DataError(f"{item.name}: damaged ({error})") from error
        if len(data) != size or zlib.crc32(data) != crc:
            found = f"{len(data)} bytes, CRC {zlib.crc32(data):08x}"
            raise DataError(f"{item.name}: damaged ({found}); by the zip's directory {size} bytes, CRC {crc:08x}")
        return decode_picture(data, item.name)

    def _opened(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            with open(self.path, "rb") as file:
                begun = file.read(4) == zipfile.stringFileHeader  # type: ignore[attr-defined]
            found = "cut short or damaged: its directory, which lies at the end, cannot be read" if begun else "no zip"
            raise DataError(f"{self.path}: {found} ({error})") from error
        except (OSError, ValueError, IndexError, OverflowError, MemoryError, NotImplementedError, struct.error) as error:
            raise DataError(f"{self.path}: cannot be read as a zip ({error})") from error


def _start(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's first bytes; none where they cannot be read."""
    try:
        with archive.open(info) as member:
            return member.read(START)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError, ValueError, struct.error):
        return b""
