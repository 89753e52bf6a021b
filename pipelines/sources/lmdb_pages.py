"""Keys of an lmdb file and where their values lie, read from its pages.

The package lmdb touches each page of each value that a cursor passes, so that listing LSUN's bedrooms with it reads all 43 GB; the keys'
pages are a hundredth of that.
"""

from collections.abc import Iterator
import os
import struct
from typing import BinaryIO

from ..errors import DataError

META = struct.Struct("<16xII16xI48xHH24xQQQQ")  # magic, version, page size; main tree: flags, depth, entries, root; last page, transaction
MAGIC, VERSION, NO_PAGE = 0xBEEFC0DE, 1, 2**64 - 1
PAGE = struct.Struct("<QHHHH")  # number, -, flags, end of the nodes' offsets, start of the nodes
BRANCH, LEAF, OVERFLOW = 1, 2, 4  # flags of a page
NODE = struct.Struct("<HHHH")  # a value's size, low and high half (in a branch: with the flags, a page's number); flags; key's size
DEEPEST = 32  # lmdb's own bound; no tree of pages is nearly so deep
ELSEWHERE = 1  # flag of a node: its value has pages of its own, of which it gives the first


def entries(path: str) -> Iterator[tuple[bytes, int, int]]:
    """(key, offset of the value in the file, its bytes) of each entry, in order of key; raises DataError if it is no complete lmdb."""
    try:
        with open(path, "rb", buffering=0) as file:
            size, depth, count, root, last = _head(path, file)
            found = 0
            if root != NO_PAGE:
                for entry in _below(file, root, size, depth, last):
                    found += 1
                    if found > count:  # pages that are reached twice, which might go on for ever
                        raise ValueError(f"more entries than {count}, as its first pages have")
                    yield entry
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (struct.error, ValueError) as error:
        raise DataError(f"{path}: damaged ({error})") from error
    if found != count:
        raise DataError(f"{path}: damaged ({found} entries found, {count} by its first pages)")


def _head(path: str, file: BinaryIO) -> tuple[int, int, int, int, int]:
    """Page size, the main tree's depth, entries and root, and the last page: of the newer of the two heads, which lmdb writes in turn."""
    start = file.read(META.size)
    if len(start) < META.size or META.unpack(start)[:2] != (MAGIC, VERSION):
        raise DataError(f"{path}: no lmdb file of format {VERSION}, or written on a machine of another byte order")
    size = META.unpack(start)[2]
    second = os.pread(file.fileno(), META.size, size)
    heads = [META.unpack(head) for head in (start, second) if len(head) == META.size]
    _, _, _, flags, depth, count, root, last, _ = max((head for head in heads if head[:2] == (MAGIC, VERSION)), key=lambda head: head[-1])
    if flags:
        raise DataError(f"{path}: an lmdb with flags {flags:#x}; wanted LSUN's plain one, a value to each key")
    if depth > DEEPEST:
        raise ValueError(f"a tree of {depth} levels; wanted at most {DEEPEST}")
    end = os.fstat(file.fileno()).st_size
    if end < (last + 1) * size:
        raise DataError(f"{path}: cut short: {end} bytes; wanted {(last + 1) * size}")
    return size, depth, count, root, last


def _below(file: BinaryIO, number: int, size: int, depth: int, last: int) -> Iterator[tuple[bytes, int, int]]:
    """The entries below page `number`, `depth` levels of pages deep."""
    if number > last:
        raise ValueError(f"page {number} is asked for; the last one is {last}")
    page = os.pread(file.fileno(), size, number * size)
    own, _, flags, lower, _ = PAGE.unpack_from(page)
    if own != number or flags & (BRANCH | LEAF | OVERFLOW) != (LEAF if depth == 1 else BRANCH):
        raise ValueError(f"page {number} is not what it should be")
    for at in struct.unpack_from(f"<{(lower - PAGE.size) // 2}H", page, PAGE.size):
        low, high, node_flags, key_size = NODE.unpack_from(page, at)
        if depth > 1:
            yield from _below(file, low | high << 16 | node_flags << 32, size, depth - 1, last)
            continue
        key = page[at + NODE.size : at + NODE.size + key_size]
        if node_flags & ~ELSEWHERE:
            raise ValueError(f"entry {key!r} has flags {node_flags}; wanted a plain value")
        value = at + NODE.size + key_size
        offset = struct.unpack_from("<Q", page, value)[0] * size + PAGE.size if node_flags else number * size + value
        yield key, offset, low | high << 16
