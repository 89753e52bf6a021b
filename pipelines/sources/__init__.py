"""Where pictures come from: one file a kind of source, opened by name."""

from collections.abc import Callable
import os
from pathlib import Path
import re

from ..errors import DataError
from .base import SUFFIXES, Item, Source
from .cifar10 import Cifar10Source
from .digits import DigitsSource
from .folder import FolderSource
from .idx import IdxSource
from .lsun import LsunSource, lmdbs_in
from .parquet import ParquetSource
from .tar import NAME as TAR_NAME
from .tar import TarSource
from .tfrecords import TFRecordsSource
from .torchvision_sets import TorchvisionSource
from .zip import ZipSource

__all__ = ["KINDS", "Item", "Source", "detect", "open_source"]

SOURCES: dict[str, Callable[[str], Source]] = {
    "folder": FolderSource,
    "zip": ZipSource,
    "webdataset": TarSource,
    "lsun": LsunSource,
    "tfrecords": TFRecordsSource,
    "parquet": ParquetSource,
    "idx": IdxSource,
    "cifar10": Cifar10Source,
    "torchvision": TorchvisionSource,
}
KINDS = (*SOURCES, "digits")
# What the names of files say; True where it says so of the folder that they are in, too.
NAMES = [
    ("lsun", re.compile(r"data\.mdb"), True),
    ("zip", re.compile(r".+\.zip", re.IGNORECASE), False),
    ("webdataset", re.compile(r".+\.tar", re.IGNORECASE), True),
    ("webdataset", TAR_NAME, False),  # a packed one beside other files may be what they came from (CIFAR-10's)
    ("parquet", re.compile(r".+\.parquet"), True),
    ("tfrecords", re.compile(r".+\.tfrecords"), True),
    ("idx", re.compile(r".+-ubyte(\.gz)?"), True),
    ("cifar10", re.compile(r"cifar-10-batches-(py|bin)|data_batch_\d+(\.bin)?"), True),
    ("folder", re.compile(rf".+({'|'.join(map(re.escape, SUFFIXES))})", re.IGNORECASE), True),
]


def detect(path: str) -> str:
    """The kind of source at `path`, by the names of files alone; raises DataError if `path` is empty, or a folder holds several kinds.

    A folder of none of them is taken for one with pictures further down, and so is a path that is not there: opening it then tells.
    """
    if not path:
        raise DataError(f"path=: empty; wanted where the pictures are, or source=digits (kinds of source: {', '.join(KINDS)})")
    if not os.path.isdir(path):
        kind = _by_name(os.path.basename(path), False)
        if kind == "folder" or (kind is None and os.path.exists(path)):
            raise DataError(f"path={path}: a file of no known kind; wanted a folder, or give source= ({', '.join(KINDS)})")
        return kind or "folder"
    try:
        found = {}
        with os.scandir(path) as entries:
            for entry in entries:
                kind = None if entry.name.startswith(".") else _by_name(entry.name, True)
                if kind and (kind == "cifar10" or not entry.is_dir()):
                    found.setdefault(kind, entry.name)
    except OSError as error:
        raise DataError(f"path={path}: cannot be listed ({error.strerror})") from error
    if len(found) > 1:
        what = " and ".join(f"{name} (source={kind})" for kind, name in sorted(found.items()))
        raise DataError(f"path={path}: holds {what}; give source=, or the path of one of them")
    if not found and lmdbs_in(Path(path)):
        return "lsun"  # which tells that one of them is wanted
    if not found and any(Path(path).glob("*/*.parquet")):
        return "parquet"  # as hubs lay out a repository: data/train-00000-of-00007.parquet
    return next(iter(found), "folder")


def _by_name(name: str, in_folder: bool) -> str | None:
    return next((kind for kind, pattern, folders in NAMES if (folders or not in_folder) and pattern.fullmatch(name)), None)


def open_source(kind: str, path: str) -> Source:
    """The source `kind`, one of KINDS, at `path`; raises DataError if it is not there or of an unknown kind."""
    if not path and kind in KINDS and kind != "digits":
        raise DataError(f"path=: empty; source={kind} wants the path of its pictures")
    if kind == "digits":
        return DigitsSource()
    if kind in SOURCES:
        return SOURCES[kind](path)
    raise DataError(f"source={kind}: unknown; wanted {', '.join(KINDS[:-1])} or {KINDS[-1]}, or auto")
