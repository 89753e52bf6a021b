"""Where the files of a data set are: a local folder here; remote.py has those that are fetched."""

from collections.abc import Iterable
import json
import os
from pathlib import Path
from typing import Any, Protocol

from .errors import DataError


def from_json(text: str | bytes) -> Any:
    """The value of a JSON text; raises ValueError for what is none, or is nested deeper than Python bears."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def fsync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Files(Protocol):
    """The files of a data set, by their names relative to its root, such as '256/shard-00001.tar'."""

    root: str  # as the user wrote it, without secrets
    mend: str  # what to do about a file that is not what it was
    open_at_once: int  # descriptors worth keeping: opening is slow on network file systems, but an open file takes room after its removal

    def manifest(self) -> str:
        """The text of manifest.json; raises DataError if there is none, which means unfinished."""
        ...

    def check(self, name: str, size: int, sha256: str) -> None:
        """Notes what a file must be, before it is asked for; raises DataError if it is known to be missing or of another size."""
        ...

    def path(self, name: str) -> Path:
        """A local file of the index, which stays there; raises DataError if it cannot be had."""
        ...

    def open(self, name: str) -> int:
        """A file descriptor of a shard, which may have to be fetched first; raises DataError if it cannot be had."""
        ...

    def prefetch(self, names: Iterable[str]) -> None:
        """Starts to bring files near in that order, as far as there is room; `names` may be endless."""
        ...


class LocalFiles:
    """A folder."""

    mend = "delete the file and run hires prepare again"
    open_at_once = 64  # an epoch touches Order.window shards at a time; ulimits start at 256

    def __init__(self, root: str | Path):
        """Raises DataError if there is no such folder."""
        self.root, self.folder = str(root), Path(root)
        if not self.folder.is_dir():
            raise DataError(f"{root}: no such folder; wanted a data set, make it with hires prepare out={root}")

    def manifest(self) -> str:
        try:
            return (self.folder / "manifest.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            if (self.folder / "checkpoints").is_dir():
                raise DataError(f"{self.root}: a run, not a data set; wanted what hires prepare wrote") from None
            raise DataError(f"{self.root}: not finished (no manifest.json): run hires prepare again") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder / 'manifest.json'}: cannot be read ({error})") from error

    def check(self, name: str, size: int, sha256: str) -> None:
        file = self.folder / name
        try:
            found = os.stat(file).st_size
        except FileNotFoundError:
            raise DataError(f"{file}: missing; wanted {size} bytes, run hires prepare again") from None
        if found != size:
            raise DataError(f"{file}: {found} bytes; wanted {size}, run hires prepare again")

    def path(self, name: str) -> Path:
        return self.folder / name

    def open(self, name: str) -> int:
        try:
            return os.open(self.folder / name, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{self.folder / name}: cannot be opened ({error.strerror})") from error

    def prefetch(self, names: Iterable[str]) -> None:
        """Nothing to do: the files are here."""
