"""A data set's folder opened for inspection, whatever state it is in, and what a person does about its files."""

import fcntl
from pathlib import Path

from .errors import DataError
from .files import LocalFiles, from_json
from .listing import SPLITS
from .manifest import MANIFEST, read_manifest
from .shards import Shards
from .writing import WORK

MISSING = "missing"  # what mend() gets for a file that is missing


def open_to_inspect(root: str) -> Shards:
    """The data set in the folder `root`, of which files may be missing or damaged.

    Raises DataError if there is no manifest, saying how far an unfinished one got, or a manifest that cannot be ours.
    """
    files = LocalFiles(root)
    if not (files.folder / MANIFEST).exists():
        raise DataError(_how_far(files.folder))
    return Shards(files, read_manifest(files))


def mend(folder: Path, name: str, state: str = "") -> str:
    """What a person does about a file that is missing (state) or wrong."""
    if not (folder / WORK).is_dir():  # a copy: prepare would refuse the folder
        return "copy it again from where the data set came from"
    return "run hires prepare again" if state == MISSING else f"delete {folder / name} and run hires prepare again"


def anew(folder: Path) -> str:
    """What a person does about a data set that was wrong from the beginning."""
    return f"delete {folder} and run hires prepare again"


def _how_far(folder: Path) -> str:
    """One line for a person: finished shards and pictures as far as the ledgers tell, whether it is being written now, what to do."""
    work = folder / WORK
    if not work.is_dir():
        return f"{folder}: no manifest.json, and no {WORK}: not a data set; wanted what hires prepare out=… wrote"
    shards, pictures = 0, 0
    for file in work.glob("*-*.json"):
        try:
            ledger = from_json(file.read_bytes())
            pictures += len(ledger["keys"]) + len(ledger["bad"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a whole ledger: prepare makes that shard again
        shards += 1
    total = sum(_lines(work / f"{split}.items") for split in SPLITS)
    of = f" of {total:,}" if total else ""
    writing = _is_locked(work / "lock")
    what = "hires prepare is writing there now: wait for it" if writing else "run the same hires prepare again to continue"
    return f"{folder}: not finished: {shards:,} shards with {pictures:,}{of} pictures are there; {what}"


def _lines(file: Path) -> int:
    try:
        with file.open("rb") as opened:
            return sum(1 for _ in opened)
    except OSError:
        return 0  # not listed yet


def _is_locked(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no such file, or a file system without locks
    return False
