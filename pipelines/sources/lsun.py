"""LSUN's lmdb folders."""

from collections.abc import Iterator
import os
from pathlib import Path
import re

from PIL import Image

from ..errors import DataError
from .archives import open_at, read_at
from .base import Item, Source, decode_picture, per_process, safe_key
from .lmdb_pages import entries

DATA = "data.mdb"


class LsunSource(Source):
    """One lmdb folder of LSUN, {category}_{train|val}_lmdb: its keys are the shards' keys, its values encoded pictures.

    The folder may be read-only, and lock.mdb is not needed. Listing reads the pages of keys alone, about a hundredth of the file, and
    `load` one range of bytes.
    """

    resolution = 256  # LSUN's pictures have a short side of 256

    def __init__(self, path: str):
        """Raises DataError if there is no lmdb in the folder, or there are several."""
        root = Path(path)
        self.file = str(root / DATA)
        if not path or not os.path.isfile(self.file):
            inner = lmdbs_in(root) if path else []
            found = f"holds {', '.join(inner)}" if inner else f"no {DATA} in it" if root.is_dir() else "no such folder"
            raise DataError(f"path={path}: {found}; wanted one folder as bedroom_train_lmdb, with a {DATA}")

    def __iter__(self) -> Iterator[Item]:
        stamp, found = os.stat(self.file).st_mtime_ns, False
        for key, offset, size in entries(self.file):
            found = True
            text = key.decode("ascii", "backslashreplace")
            yield Item(safe_key(text), f"{self.file}: {text}", size, stamp, (offset,))
        if not found:
            raise DataError(f"{self.file}: no entries; wanted pictures")

    def load(self, item: Item) -> Image.Image:
        return decode_picture(read_at(per_process(open_at, self.file), item.place[0], item.size, item), item.name)


def lmdbs_in(folder: Path) -> list[str]:
    """The names of the folders in `folder` that are lmdbs, as LSUN's download lays them out."""
    if not folder.is_dir():
        return []
    return sorted(name for name in os.listdir(folder) if re.search("_lmdb$", name) and (folder / name / DATA).is_file())
