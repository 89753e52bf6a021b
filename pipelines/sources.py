"""Where pictures come from: a list of keys in sorted order, and the picture behind each."""

from collections.abc import Iterator
from dataclasses import dataclass
import hashlib
import io
import os
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from .errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of a source: its key in the shards, the name a person knows it by, and what changes when it changes."""

    key: str
    file: str
    size: int = 0
    mtime_ns: int = 0


class Source(Protocol):
    """A finite list of pictures, sorted by key."""

    items: list[Item]
    upscales: bool  # True: made of tiny pictures that are meant to be enlarged

    def load(self, index: int) -> Image.Image:
        """The decoded picture number `index`, in whatever mode it has; raises DataError naming it."""
        ...


class FolderSource:
    """All pictures under a folder, at any depth; hidden files are left out, links are followed."""

    upscales = False

    def __init__(self, path: str):
        self.root = Path(path)
        if not path or not self.root.is_dir():
            raise DataError(f"path={path}: no such folder; wanted a folder of pictures")
        self.items = sorted((_item(entry, self.root) for entry in _walk(self.root, ())), key=lambda item: item.key)
        if not self.items:
            raise DataError(f"path={path}: no picture found; wanted files ending in {', '.join(SUFFIXES)}")
        for a, b in zip(self.items, self.items[1:], strict=False):
            if a.key == b.key:
                raise DataError(f"{a.file} and {b.file}: both would get the key '{a.key}'; rename one of them")

    def load(self, index: int) -> Image.Image:
        """The decoded picture number `index`; raises DataError naming the file if it is empty, cut short or no picture."""
        file = self.items[index].file
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error
        if not data:
            raise DataError(f"{file}: 0 bytes; wanted a picture")
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
        except Image.UnidentifiedImageError as error:
            raise DataError(f"{file}: {len(data)} bytes that are no picture; wanted one of {', '.join(SUFFIXES)}") from error
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
            raise DataError(f"{file}: {len(data)} bytes, cannot be decoded ({error}); wanted a whole picture") from error
        return image


class DigitsSource:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, no download; the key ends in the label ('0042_7')."""

    upscales = True

    def __init__(self):
        from sklearn.datasets import load_digits  # a second to import, and needed nowhere else

        digits = load_digits()
        self.pictures = np.floor(digits.images * 255 / 16 + 0.5).astype(np.uint8)
        keys = [f"{i:04d}_{label}" for i, label in enumerate(digits.target)]
        self.items = [Item(key, f"digits/{key}", 64) for key in keys]

    def load(self, index: int) -> Image.Image:
        """The 8x8 picture number `index`, mode 'L'."""
        return Image.fromarray(self.pictures[index])


def open_source(kind: str, path: str) -> Source:
    """The source `kind` (folder | digits) at `path`; raises DataError if it is not there, empty or of an unknown kind."""
    if kind == "folder":
        return FolderSource(path)
    if kind == "digits":
        return DigitsSource()
    raise DataError(f"source={kind}: unknown; wanted folder or digits")


def source_fingerprint(source: Source) -> str:
    """A hash of all keys and file sizes."""
    digest = hashlib.sha256()
    for item in source.items:
        digest.update(f"{item.key}\0{item.size}\n".encode())
    return digest.hexdigest()


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[os.DirEntry]:
    here = folder.stat()
    if (here.st_dev, here.st_ino) in above:  # a link back to a folder that we are in
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), (*above, (here.st_dev, here.st_ino)))
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry


def _item(entry: os.DirEntry, root: Path) -> Item:
    stem = os.path.splitext(os.path.relpath(entry.path, root))[0]
    try:
        stat = entry.stat()
    except OSError as error:
        raise DataError(f"{entry.path}: cannot be read ({error.strerror})") from error
    return Item(safe_key(stem), entry.path, stat.st_size, stat.st_mtime_ns)


def safe_key(name: str) -> str:
    """`name` as a webdataset key: no dot (it would end the key there), no control character, valid UTF-8, '/' between folders."""
    text = name.replace(os.sep, "/").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join("_" if c == "." or not c.isprintable() else c for c in text)
