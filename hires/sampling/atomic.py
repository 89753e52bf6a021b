"""Files that appear under their name only when they are whole."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path

from hires.errors import HiresError


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
        raise HiresError(f"{path}: not written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
