"""A folder of pictures."""

from collections.abc import Iterator
import os
from pathlib import Path

from PIL import Image

from ..errors import DataError
from .base import SUFFIXES, Item, Source, decode_picture, safe_key


class FolderSource(Source):
    """All pictures under a folder, at any depth; hidden files are left out, links are followed."""

    def __init__(self, path: str):
        """Raises DataError if there is no such folder."""
        self.root = Path(path)
        if not path or not self.root.is_dir():
            raise DataError(f"path={path}: no such folder; wanted a folder of pictures")

    def __iter__(self) -> Iterator[Item]:
        entry = None
        for entry in _walk(str(self.root), ()):
            yield _item(entry, self.root)
        if entry is None:
            raise DataError(f"path={self.root}: no picture found; wanted files ending in {', '.join(SUFFIXES)}")

    def load(self, item: Item) -> Image.Image:
        try:
            data = Path(item.name).read_bytes()
        except OSError as error:
            raise DataError(f"{item.name}: cannot be read ({error.strerror})") from error
        return decode_picture(data, item.name)


def _walk(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[os.DirEntry]:
    try:
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in above:  # a link back to a folder that we are in
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield from _walk(entry.path, (*above, (here.st_dev, here.st_ino)))
                elif entry.name.lower().endswith(SUFFIXES):
                    yield entry
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error


def _item(entry: os.DirEntry, root: Path) -> Item:
    stem = os.path.splitext(os.path.relpath(entry.path, root))[0]
    try:
        stat = entry.stat()
    except OSError as error:
        raise DataError(f"{entry.path}: cannot be read ({error.strerror})") from error
    return Item(safe_key(stem), entry.path, stat.st_size, stat.st_mtime_ns)
