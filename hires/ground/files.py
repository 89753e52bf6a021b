"""Files and folders that appear under their name only when they are whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
import fcntl
import glob
import os
from pathlib import Path
import secrets
import shutil

from hires.errors import HiresError


def in_words(error: Exception) -> str:
    """What the system said, with the file it said it of: 'No space left on device (runs/a/b.png)'."""
    words, name = getattr(error, "strerror", None), getattr(error, "filename", None)
    return (f"{words} ({name})" if name else words) if words else str(error)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, renamed to `path` when the block ends and removed when it raises.

    Creates the folder. What a killed process left of the same `path` is removed. Raises HiresError where the system refuses (full disk, no
    permission).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _hidden(path, Path.touch, os.unlink) as part:
            yield part
            os.replace(part, path)
    except OSError as error:
        raise HiresError(f"{path}: not written: {in_words(error)}") from error


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path` to write to, renamed to `path` when the block ends and removed when it raises.

    What a killed process left of the same `path` is removed. Raises HiresError where `path` exists already, unless as an empty folder, and
    where the system refuses (full disk, no permission).
    """
    path = Path(path)
    full = Path(os.path.abspath(path))
    try:
        if full.exists() and not (full.is_dir() and not any(full.iterdir())):
            raise HiresError(f"{path}: exists already; wanted a new folder, which is never written over another")
        full.parent.mkdir(parents=True, exist_ok=True)
        with _hidden(full, Path.mkdir, shutil.rmtree) as part:
            yield part
            os.rename(part, full)
    except OSError as error:
        raise HiresError(f"{path}: not written: {in_words(error)}") from error


@contextmanager
def _hidden(path: Path, make: Callable[[Path], None], remove: Callable[[Path], None]) -> Iterator[Path]:
    """A new hidden name beside `path`, locked while inside so that others know it from what a killed process left, and removed after.

    No other process takes the same one, in other containers on a shared disk neither.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.part"):
        with suppress(OSError), _lock(left):
            remove(left)
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        make(part)
        with _lock(part, needed=False):
            if not part.exists():  # another process took it for left before it was locked
                continue
            try:
                yield part
            finally:
                with suppress(OSError):  # gone after the renaming
                    remove(part)
            return


@contextmanager
def _lock(part: Path, needed: bool = True) -> Iterator[None]:
    """Holds a lock that ends with the process; raises OSError where another holds it or, if it is needed, the file system knows none."""
    descriptor = os.open(part, os.O_RDONLY if part.is_dir() else os.O_RDWR)
    try:
        with nullcontext() if needed else suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
