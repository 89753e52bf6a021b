"""Files that appear under their name only when they are whole."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import os
from pathlib import Path
import secrets

from hires.errors import HiresError


def in_words(error: Exception) -> str:
    """What the system said, with the file it said it of: 'No space left on device (runs/a/b.png)'."""
    words, name = getattr(error, "strerror", None), getattr(error, "filename", None)
    return (f"{words} ({name})" if name else words) if words else str(error)


def hidden_name(path: Path) -> Path:
    """A hidden name beside `path` that no other process takes, in other containers on a shared disk neither."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, renamed to `path` when the block ends and removed when it raises.

    Creates the folder. Raises HiresError where the system refuses (full disk, no permission).
    """
    part = hidden_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise HiresError(f"{path}: not written: {in_words(error)}") from error
    finally:
        with suppress(OSError):  # gone after the renaming; and where its folder is no folder, that was said above
            part.unlink()
