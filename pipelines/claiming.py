"""Who may write into a data set's folder: one process for all of it, or several for a part each, on any machines that share it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import fcntl
from pathlib import Path
import re
import shutil
import time
from typing import Any

from .errors import DataError
from .files import from_json
from .writing import WORK, told

SETTINGS = "settings.json"  # in WORK: what an unfinished data set is to become


def share(part: str) -> tuple[int, int]:
    """'2/4' -> (2, 4), and '' -> (1, 1), the whole; raises DataError where it is no part."""
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", part or "1/1")
    if not match or int(match[1]) > int(match[2]):
        raise DataError(f"part={part}: wanted a part and the number of parts, such as 1/4, 2/4, 3/4 or 4/4")
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
        raise DataError(f"out={out}: cannot be written ({error.filename}: {error.strerror})") from error
    with lock, own_lock:
        if not part:
            _lock(lock.fileno(), fcntl.LOCK_EX, out)
        alone = not part or _is_free(lock.fileno())
        if alone:
            _forget_what_has_no_shard(out)
        if part:
            _lock(lock.fileno(), fcntl.LOCK_SH, out)
            _lock(own_lock.fileno(), fcntl.LOCK_EX, out)
            _refuse_other_parts(out, part)
        try:
            refuse_unfinished(out, identity)
            yield own
        except OSError as error:  # what workers meet is a DataError already
            raise told(error, out) from error
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
    """Raises DataError where another data set than ours was begun in `out`.

    One that differs in nothing but that pictures are to be enlarged is ours: what is there needed no enlarging.
    """
    if (out / WORK / SETTINGS).exists():
        try:
            begun = dict(from_json((out / WORK / SETTINGS).read_bytes()))
        except (ValueError, TypeError) as error:
            raise DataError(f"{out / WORK / SETTINGS}: cannot be read ({error}); remove {out} and prepare it again") from error
        if identity["allow_upscale"]:
            begun["allow_upscale"] = True
        refuse_other(out, begun, identity, "holds an unfinished data set")


def _forget_what_has_no_shard(out: Path) -> None:
    """Where an attempt ended before its first shard, other settings may begin anew: nothing is lost."""
    if (out / WORK / SETTINGS).exists() and not any((out / WORK).glob("*-*.json")):
        (out / WORK / SETTINGS).unlink()
        for half in (out / WORK).glob("*.tar"):
            half.unlink()
        for level in out.glob("[0-9]*"):
            with suppress(OSError):  # not empty: no attempt's
                level.rmdir()


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


def _is_free(descriptor: int) -> bool:
    """Whether nobody holds the lock; then we do."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(descriptor: int, kind: int, out: Path) -> None:
    # Workers share the lock and outlive a killed parent by up to a second: wait for them rather than write into their files.
    for _ in range(30):
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
    raise DataError(f"{out}: another hires prepare is writing there; wait for it or choose another out=")
