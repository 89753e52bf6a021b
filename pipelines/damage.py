"""What is wrong inside one shard: pictures whose bytes are not those that were written, and tar headers that do not fit the index."""

from collections.abc import Sequence
import os
from pathlib import Path
import tarfile
import zlib

import numpy as np

NAMED = 5  # keys in one line


def damaged_pictures(file: Path, entries: np.ndarray) -> list[int]:
    """Which pictures (entries: (N,) of ENTRY) are not there whole, by CRC-32; raises OSError if the file cannot be read."""
    with file.open("rb", buffering=0) as opened:
        whole = (zlib.crc32(os.pread(opened.fileno(), size, offset)) == crc for offset, size, crc in entries.tolist())
        return [i for i, is_whole in enumerate(whole) if not is_whole]


def tar_problem(file: Path, names: Sequence[str], entries: np.ndarray) -> str:
    """Where the members of a tar file first differ from `names` and entries (N,) of ENTRY; '' if they do not. Nothing is extracted."""
    try:
        with tarfile.open(file, "r:") as tar:
            for name, (offset, size, _) in zip(names, entries.tolist(), strict=True):
                member = tar.next()
                if member is None:
                    return f"its tar headers end before {name}"
                if (member.name, member.offset_data, member.size) != (name, offset, size):
                    found = f"{member.name[:100]!r} with {member.size} bytes at {member.offset_data}"
                    return f"its tar headers have {found}; the index {name!r} with {size} at {offset}"
            extra = tar.next()
            return f"its tar headers go on with {extra.name[:100]!r} after the last picture" if extra else ""
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        return f"its tar headers cannot be read ({' '.join(str(error).split())})"


def tell_damage(file: Path, is_short: bool, keys: Sequence[str], names: Sequence[str], entries: np.ndarray) -> str:
    """What is the matter with a shard that is not as written: damaged pictures by key, else what is wrong around them.

    Raises OSError if the file cannot be read.
    """
    bad = damaged_pictures(file, entries)
    if is_short:
        return f"{len(keys) - len(bad)} of {len(keys)} pictures are left, the first lost {keys[bad[0]]}" if bad else "no picture is lost"
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        return f"{len(bad)} of {len(keys)} pictures are damaged: {', '.join(keys[i] for i in bad[:NAMED])}{more}"
    around = tar_problem(file, names, entries) or "its tar headers fit the index: it is their other fields, or padding"
    return f"none of its {len(keys)} pictures is hurt, the damage is in the tar's own headers: {around}"
