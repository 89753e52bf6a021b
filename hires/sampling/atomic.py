"""Files that appear under their name only when they are whole."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import os
from pathlib import Path

from hires.errors import HiresError


def in_words(error: Exception) -> str:
    """What the system said, with the file it said it of: 'No space left on device (runs/a/b.png)'."""
    words, name = getattr(error, "strerror", None), getattr(error, "filename", None)
    return (f"{words} ({name})" if name else words) if words else str(error)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, renamed to `path` when the block ends and removed when it raises.

    Creates the folder. Raises HiresError where the system refuses (full disk, no permission).
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise HiresError(f"{path}: not written: {in_words(error)}") from error
    finally:
        with suppress(OSError):  # gone after the renaming; and where its folder is no folder, that was said above
            part.unlink()
