"""A folder of pictures."""

from collections.abc import Iterator
import os
from pathlib import Path
import stat

from PIL import Image

from ..errors import DataError
from .base import SUFFIXES, Item, Source, decode_picture, safe_key


class FolderSource(Source):
    """All pictures under a folder, at any depth; hidden files are left out, links are followed."""

    def __init__(self, path: str):
        """Raises DataError if there is no such folder."""
        self.root = Path(path)
        if not path or not self.root.is_dir():
            if path and self.root.is_file():
                raise DataError(f"path={path}: a file; wanted a folder of pictures")
            raise DataError(f"path={path}: no such folder; wanted a folder of pictures")

    def __iter__(self) -> Iterator[Item]:
        entry = None
        for entry in _walk(str(self.root), ()):
            yield _item(entry, str(self.root))
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
                leads_nowhere = entry.is_symlink() and not os.path.exists(entry.path)
                if leads_nowhere and not os.path.splitext(entry.name)[1]:
                    raise DataError(f"{entry.path}: a link that leads nowhere, maybe to a folder of pictures; wanted it mended or removed")
                if not leads_nowhere and entry.is_dir():
                    yield from _walk(entry.path, (*above, (here.st_dev, here.st_ino)))
                elif entry.name.lower().endswith(SUFFIXES):
                    yield entry
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error


def _item(entry: os.DirEntry, root: str) -> Item:
    key = safe_key(os.path.splitext(entry.path[len(root) :])[0])  # os.path.relpath would take most of the listing's time
    try:
        found = entry.stat()
    except OSError:
        return Item(key, entry.path)  # one bad picture, which load tells, and no reason not to list the others
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{entry.path}: no plain file; wanted a picture")  # a pipe would be waited for
    return Item(key, entry.path, found.st_size, found.st_mtime_ns)
