"""Whether a prepared data set in a folder is still what was written: its index, its shards, the pictures in them, its keys."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
import hashlib
import heapq
from itertools import islice
import os
from pathlib import Path
from typing import Any

from .damage import tar_problem, tell_damage
from .errors import DataError
from .listing import SPLITS
from .manifest import MANIFEST
from .opening import MISSING, anew, mend
from .shards import ENTRY, INDEX, Shards
from .writing import WORK

CHUNK = 1 << 20  # bytes read at once
CHANGED = "not the bytes that were written (sha256)"


def verify(shards: Shards, workers: int = 0, seen: Callable[[int], None] | None = None) -> list[str]:
    """Reads every file of a data set in a folder and returns what is wrong, a line each: the file, what was found, what to do.

    Files are hashed by `workers` threads (0: one a core), 1 MiB at a time; `seen(bytes)` is called from them. Of shards that are not as
    written the damaged pictures are named, and the tar headers of the smallest level are compared with the index. Memory grows with the
    number of shards alone.
    """
    folder = Path(shards.root)
    index, lines = _index_files(shards)
    wanted = index | {name: (found["bytes"], found["sha256"]) for *_, name, found in shard_files(shards)}
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        jobs = {name: pool.submit(_state, folder / name, size, sha, seen or (lambda _: None)) for name, (size, sha) in wanted.items()}
        try:
            states = {name: job.result() for name, job in jobs.items()}
        finally:
            pool.shutdown(cancel_futures=True)  # where it was interrupted
    lines += [f"{folder / name}: {states[name]}; {mend(folder, name, states[name])}" for name in index if states[name]]
    sound = {name for name in index if not states[name]}
    lines += _level_problems(shards, states)
    for split in SPLITS:
        lines += _shard_problems(shards, split, states, sound)
    return lines + (key_problems(shards) if {f"index/{split}.keys" for split in SPLITS} <= sound else [])


def key_problems(shards: Shards) -> list[str]:
    """What is wrong with the keys: out of order, twice, both trained on and held out (the first of each), or too many or few.

    The two files are merged line by line, so memory does not grow.
    """
    folder, found = Path(shards.root), {}
    counts, before = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, "")

    def lines(split: str) -> Iterator[tuple[str, str]]:
        name = f"index/{split}.keys"
        for key in keys(shards, split):
            if counts[split] and key <= before[split]:
                found.setdefault(name, f"{folder / name}: '{key}' after '{before[split]}'; wanted each key once, in order: {anew(folder)}")
            counts[split], before[split] = counts[split] + 1, key
            yield key, split

    last = None
    for key, _ in heapq.merge(*map(lines, SPLITS)):
        if key == last and not found:  # where keys are out of order, merging them tells nothing
            found[key] = f"{folder}: '{key}' is both held out and trained on; {anew(folder)}"
        last = key
    for split in SPLITS:
        if counts[split] != shards.count(split):
            name = f"index/{split}.keys"
            found[split] = f"{folder / name}: {counts[split]} keys; wanted {shards.count(split)}: {mend(folder, name)}"
    return list(found.values())


def keys(shards: Shards, split: str) -> Iterator[str]:
    """The keys of a split in order, read line by line."""
    with shards.files.path(f"index/{split}.keys").open(encoding="utf-8", newline="\n") as file:
        yield from (line.rstrip("\n") for line in file)


def shard_files(shards: Shards) -> Iterator[tuple[int, str, int, str, dict]]:
    """Level, split, number, file name and manifest entry (bytes, sha256) of each shard."""
    for split in SPLITS:
        for number, shard in enumerate(shards.manifest["shards"][split]):
            for level in shards.levels:
                yield level, split, number, f"{level}/{shard['name']}.tar", shard["levels"][str(level)]


def strangers(shards: Shards) -> list[str]:
    """Names of files in a data set's folder that do not belong to it, relative to the folder, in order."""
    folder = Path(shards.root)
    ours = {MANIFEST, INDEX, "report.json", *(name for *_, name, _ in shard_files(shards))}
    ours |= {f"index/{split}{of}" for split in SPLITS for of in (".keys", *(f"-{level}.entries" for level in shards.levels))}
    found = []
    for place, folders, names in os.walk(folder):
        if Path(place) == folder and WORK in folders:
            folders.remove(WORK)
        found += [name for file in names if (name := str((Path(place) / file).relative_to(folder))) not in ours]
    return sorted(os.fsencode(name).decode(errors="replace") for name in found)


def _index_files(shards: Shards) -> tuple[dict[str, tuple[int, str]], list[str]]:
    """Name -> bytes and sha256 of the files in index/; and what is wrong with index.json, which has them."""
    try:
        files = {name: (size, digest) for name, size, digest in shards.contents() if name.startswith("index/")}
    except DataError as error:
        return {}, [str(error)]
    folder = Path(shards.root)
    for split in SPLITS:
        for level in shards.levels:
            name, wanted = f"index/{split}-{level}.entries", shards.count(split) * ENTRY.itemsize
            if files.get(name, (0, ""))[0] != wanted or f"index/{split}.keys" not in files:
                return {}, [f"{folder / INDEX}: has no {name} of {wanted} bytes beside its keys; {mend(folder, INDEX)}"]
    return files, []


def _state(file: Path, size: int, sha256: str, seen: Callable[[int], None]) -> str:
    """What is wrong with a file as a whole; '' if nothing."""
    digest = hashlib.sha256()
    try:
        with file.open("rb") as opened:
            found = os.fstat(opened.fileno()).st_size
            if found != size:
                return f"{found} bytes of {size}"
            while chunk := opened.read(CHUNK):
                digest.update(chunk)
                seen(len(chunk))
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if digest.hexdigest() == sha256 else CHANGED


def _level_problems(shards: Shards, states: dict[str, str]) -> list[str]:
    """Levels of which nothing is left, a line each instead of one a shard."""
    lines = []
    for level in shards.levels:
        names = [name for found, *_, name, _ in shard_files(shards) if found == level]
        if len(names) > 1 and all(states[name] == MISSING for name in names):
            lines.append(f"{shards.root}/{level}: the level is missing, all {len(names)} shards; {mend(Path(shards.root), '', MISSING)}")
            states.update(dict.fromkeys(names, ""))
    return lines


def _shard_problems(shards: Shards, split: str, states: dict[str, str], sound: set[str]) -> Iterator[str]:
    """Lines on the shards of a split that are not as written, and on those of the smallest level that do not fit the index."""
    folder, every = Path(shards.root), keys(shards, split) if f"index/{split}.keys" in sound else iter(())
    start = 0
    for number, images in enumerate(shards.shard_sizes(split)):
        own = list(islice(every, images))
        for level in shards.levels:
            name = shards.shard_file(level, split, number)
            state, file = states[name], folder / name
            known = f"index/{split}-{level}.entries" in sound and len(own) == images
            members = [f"{key}.{shards.codec(level).suffix}" for key in own]
            entries = shards.entries(level, split)[start : start + images] if known else None
            if state == MISSING or state.startswith("cannot"):
                yield f"{file}: {state}, {images} pictures; {mend(folder, name, state)}"
            elif state and not known:
                yield f"{file}: {state}; which pictures is not known without its index; {mend(folder, name)}"
            elif state:
                yield f"{file}: {state}: {_told(file, state != CHANGED, own, members, entries)}; {mend(folder, name)}"
            elif known and level == shards.levels[0] and file.exists() and (wrong := tar_problem(file, members, entries)):
                yield f"{file}: as it was written, but {wrong}; {anew(folder)}"
        start += images


def _told(file: Path, *rest: Any) -> str:
    try:
        return tell_damage(file, *rest)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
