"""A folder of pictures."""

from collections import Counter
from collections.abc import Iterator
import os
from pathlib import Path
import stat

from PIL import Image

from ..errors import DataError
from .base import FORMATS, MAGIC, START, SUFFIXES, Item, Source, decode_picture, left_out_as, safe_key, stem


class FolderSource(Source):
    """All pictures under a folder, at any depth: files of a picture's ending, and those whose bytes begin as a picture's.

    Hidden files are left out, links are followed.
    """

    def __init__(self, path: str):
        """Raises DataError if there is no such folder."""
        self.root = Path(path)
        if not path or not self.root.is_dir():
            if path and self.root.is_file():
                raise DataError(f"path={path}: a file; wanted a folder of pictures")
            raise DataError(f"path={path}: no such folder; wanted a folder of pictures")

    def __iter__(self) -> Iterator[Item]:
        entry, self.left_out = None, Counter()
        for entry in _walk(str(self.root), (), self.left_out):
            yield _item(entry, str(self.root))
        if entry is None:
            raise DataError(f"path={self.root}: no picture found; wanted {', '.join(FORMATS)}")

    def load(self, item: Item) -> Image.Image:
        try:
            data = Path(item.name).read_bytes()
        except OSError as error:
            raise DataError(f"{item.name}: cannot be read ({error.strerror})") from error
        return decode_picture(data, item.name)


def _walk(folder: str, above: tuple[tuple[int, int], ...], left_out: Counter[str]) -> Iterator[os.DirEntry]:
    try:
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in above:  # a link back to a folder that we are in
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    left_out["hidden"] += 1
                    continue
                leads_nowhere = entry.is_symlink() and not os.path.exists(entry.path)
                if leads_nowhere and not os.path.splitext(entry.name)[1]:
                    raise DataError(f"{entry.path}: a link that leads nowhere, maybe to a folder of pictures; wanted it mended or removed")
                if not leads_nowhere and entry.is_dir():
                    yield from _walk(entry.path, (*above, (here.st_dev, here.st_ino)), left_out)
                elif entry.name.lower().endswith(SUFFIXES) or _begins_as_a_picture(entry):
                    yield entry
                else:
                    left_out[left_out_as(entry.name)] += 1
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error


def _begins_as_a_picture(entry: os.DirEntry) -> bool:
    try:
        if not entry.is_file():  # a pipe would be waited for
            return False
        with open(entry.path, "rb", buffering=0) as file:
            return bool(MAGIC.match(file.read(START)))
    except OSError:
        return False


def _item(entry: os.DirEntry, root: str) -> Item:
    key = safe_key(stem(entry.path[len(root) :]))  # os.path.relpath would take most of the listing's time
    try:
        found = entry.stat()
    except OSError:
        return Item(key, entry.path)  # one bad picture, which load tells, and no reason not to list the others
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{entry.path}: no plain file; wanted a picture")  # a pipe would be waited for
    return Item(key, entry.path, found.st_size, found.st_mtime_ns)
