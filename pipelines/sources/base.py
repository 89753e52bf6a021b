"""What a source of pictures is: items that can be listed one after another, and the picture behind each."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import io
import os
import re
import threading
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif")
# What the bytes may be, whatever the name. Pillow knows more, and hands some (PostScript) to other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# How they begin; a bitmap also by its reserved bytes and the size of its header, since texts begin with BM too.
MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|BM....\0\0\0\0....[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|II[*+]\0|MM\0[*+]|GIF8[79]a",
    re.DOTALL,
)
START = 18  # bytes that MAGIC looks at


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of a source."""

    key: str  # in the shards; made by safe_key
    name: str  # what a person knows it by: a file's path, 'a.zip: x/1.jpg', 'x-r10.tfrecords: record 17'
    size: int = 0  # bytes as stored
    stamp: int = 0  # changes when the file is written again (mtime in ns)
    place: tuple[Any, ...] = ()  # what the source needs to find it again


class Source(ABC):
    """A finite set of pictures.

    Listing does not hold what it has listed: three million items pass by one at a time, and are sorted elsewhere (listing.py). `load` is
    called in other processes, forked from the one that listed: open handles in there (per_process).
    """

    channels: int = 3  # of the shards, where the user asks for nothing else
    resolution: int = 0  # of the top level, where the user asks for nothing else; 0: must be given
    upscales: bool = False  # True: made of tiny pictures that are meant to be enlarged
    left_out: Mapping[str, int] = MappingProxyType({})  # how many files the last listing passed over, by ending (left_out_as)
    shard_in_key: bool = False  # whether keys alone did not tell pictures of several shards apart
    levels: tuple[int, ...] = ()  # resolutions that are stored ready-made; those below the top are taken as they are, not averaged anew

    @abstractmethod
    def __iter__(self) -> Iterator[Item]:
        """All items, once each; raises DataError where the source cannot be listed, or has no picture."""

    def tell_apart(self, first: Item, second: Item) -> bool:
        """Asked when two items of a listing have one key: True if the next listing gives keys that tell them apart."""
        return False

    @abstractmethod
    def load(self, item: Item) -> Image.Image:
        """The decoded picture, in whatever mode it has; raises DataError naming it if it is empty, cut short or no picture."""

    def load_levels(self, item: Item) -> list[np.ndarray]:
        """The stored levels, uint8 (r, r, C) each, from the top down, of a source that has `levels`; raises DataError as `load` does."""
        raise NotImplementedError


def decode_picture(data: bytes, name: str) -> Image.Image:
    """The picture in `data`; raises DataError naming `name` if it is empty, cut short or no picture."""
    if not data:
        raise DataError(f"{name}: 0 bytes; wanted a picture")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name}: {len(data)} bytes that are no picture; wanted {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels; wanted no more") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DataError(f"{name}: {len(data)} bytes, cannot be decoded ({error}); wanted a whole picture") from error
    return image


def left_out_as(name: str) -> str:
    """What a file that is not a picture is counted as: 'hidden', its suffix in lower case, or 'no ending'."""
    base = name.rstrip("/").rpartition("/")[2]
    return "hidden" if base.startswith(".") else os.path.splitext(base)[1].lower() or "no ending"


def stem(name: str) -> str:
    """A picture's name without its ending, where it has a picture's: 'a.v2' and 'a.v3' are two."""
    root, ending = os.path.splitext(name)
    return root if ending.lower() in SUFFIXES else name


def safe_key(name: str) -> str:
    """`name` as a webdataset key: no dot (it would end the key there), no control character, valid UTF-8, '/' between folders only."""
    text = name.replace(os.sep, "/").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = "/".join(part for part in text.split("/") if part)
    return "".join("_" if c == "." or not c.isprintable() else c for c in text)


_handles = threading.local()


def per_process(opener: Any, *arguments: Any) -> Any:
    """`opener(*arguments)`, opened once in each process and thread: a handle that came through fork would share its file position."""
    if getattr(_handles, "process", None) != os.getpid():
        _handles.process, _handles.opened = os.getpid(), {}
    at = (opener, arguments)
    if at not in _handles.opened:
        _handles.opened[at] = opener(*arguments)
    return _handles.opened[at]
