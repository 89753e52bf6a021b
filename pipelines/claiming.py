"""Who may write into a data set's folder: one process for all of it, or several for a part each, on any machines that share it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import fcntl
import json
from pathlib import Path
import re
import shutil
import time
from typing import Any

from .errors import DataError
from .writing import WORK

SETTINGS = "settings.json"  # in WORK: what an unfinished data set is to become


def share(part: str) -> tuple[int, int]:
    """'2/4' -> (2, 4), and '' -> (1, 1), the whole; raises DataError where it is no part."""
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", part or "1/1")
    if not match or int(match[1]) > int(match[2]):
        raise DataError(f"part={part}: wanted one of so many, such as 1/4, 2/4, 3/4 or 4/4")
    return int(match[1]), int(match[2])


@contextmanager
def claim(out: Path, identity: dict[str, Any], part: str) -> Iterator[Path]:
    """Makes `out`, or this part of it, ours alone while inside, and gives the folder for our listing.

    Raises DataError if it holds something else or someone else is writing there.
    """
    work = out / WORK
    own = work / f"part-{part.replace('/', '-of-')}" if part else work
    try:
        if not work.is_dir() and out.is_dir() and any(entry.name != WORK for entry in out.iterdir()):
            raise DataError(f"{out}: not empty, and not written by hires prepare; wanted a new or empty folder")
        own.mkdir(parents=True, exist_ok=True)
        lock, own_lock = (work / "lock").open("w"), (own / "lock").open("w")
    except OSError as error:
        raise DataError(f"out={out}: cannot be written ({error.strerror})") from error
    with lock, own_lock:
        _lock(lock.fileno(), fcntl.LOCK_SH if part else fcntl.LOCK_EX, out)
        if part:
            _lock(own_lock.fileno(), fcntl.LOCK_EX, out)
            _refuse_other_parts(out, part)
        try:
            refuse_unfinished(out, identity)
            yield own
        except OSError as error:  # what workers meet is a DataError already
            raise DataError(f"{out}: cannot be written ({error.strerror or error}); run hires prepare again once mended") from error
        finally:
            if not part and not (work / SETTINGS).exists():  # nothing was begun: leave nothing behind
                shutil.rmtree(work)
                with suppress(OSError):  # it may hold something, or have been there before
                    out.rmdir()


@contextmanager
def turn(out: Path) -> Iterator[None]:
    """One part at a time, for what is written for all."""
    with (out / WORK / "turn").open("w") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        yield


def refuse_unfinished(out: Path, identity: dict[str, Any]) -> None:
    """Raises DataError where another data set than ours was begun in `out`."""
    if (out / WORK / SETTINGS).exists():
        refuse_other(out, json.loads((out / WORK / SETTINGS).read_text(encoding="utf-8")), identity, "holds an unfinished data set")


def refuse_other(out: Path, found: dict, wanted: dict, what: str) -> None:
    """Raises DataError naming the settings in which `found` is not what is `wanted`."""
    differs = [name for name in wanted if found.get(name) != wanted[name]]
    if differs:
        theirs = ", ".join(_setting(name, found.get(name)) for name in differs)
        ours = ", ".join(_setting(name, wanted[name]) for name in differs)
        raise DataError(f"{out}: {what} with {theirs}; wanted {ours}: choose another out=, or remove that folder")


def _setting(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(_setting(f"{name}.{key}", inner) for key, inner in value.items())
    return f"{name}={value}"


def _refuse_other_parts(out: Path, part: str) -> None:
    """Raises DataError where `out` is being prepared in another number of parts: they would meet ours in a shard."""
    number = part.partition("/")[2]
    for other in (out / WORK).glob("part-*/lock"):
        if not other.parent.name.endswith(f"-of-{number}"):
            with other.open("w") as lock:
                _lock(lock.fileno(), fcntl.LOCK_SH, out)


def _lock(descriptor: int, kind: int, out: Path) -> None:
    # Workers share the lock and outlive a killed parent by up to a second: wait for them rather than write into their files.
    for _ in range(30):
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
    raise DataError(f"{out}: another hires prepare is writing there; wait for it or choose another out=")
