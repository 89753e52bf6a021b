"""What zip and tar files have in common: pictures at an offset of a file, under names that are not trusted."""

import os

from ..errors import DataError
from .base import Item


def is_hidden(member: str) -> bool:
    """Whether a member's name is a hidden one, or of the forks that macOS adds."""
    parts = [part for part in member.split("/") if part not in ("", ".")]
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)


def relative(member: str) -> str:
    """A member's name without './' before it, as `tar cf x.tar .` writes."""
    return "/".join(part for part in member.split("/") if part not in ("", "."))


def read_at(handle: int, offset: int, size: int, item: Item) -> bytes:
    """`size` bytes of a file at `offset`; raises DataError naming `item` if they cannot be had."""
    try:
        left = os.fstat(handle).st_size - offset  # os.pread takes the memory for `size` bytes first
        data = os.pread(handle, min(size, max(left, 0)), offset)
    except (OSError, OverflowError, ValueError) as error:
        raise DataError(f"{item.name}: cannot be read ({error})") from error
    if len(data) < size:
        found = f"the file ends after {len(data)} of its {size} bytes"
        raise DataError(f"{item.name}: {found}; it is cut short, or has changed since it was listed")
    return data


def open_at(path: str) -> int:
    """A handle to read `path` with; raises DataError if it does not exist or cannot be read."""
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
