"""The files of a data set at an address, fetched when needed or a little before into a folder of bounded size."""

from collections import deque
from collections.abc import Iterable
import functools
import hashlib
import io
from itertools import chain
import logging
import os
from pathlib import Path
import re
import threading
import time

from .caching import Cache
from .errors import DataError
from .fetching import Missing, Origin
from .manifest import SHA256

log = logging.getLogger(__name__)
WINDOW = 16  # shards that Order reads from at a time
THREADS = 2  # that fetch ahead, in each process
SHARD = re.compile(r"[1-9][0-9]*/[A-Za-z0-9][A-Za-z0-9_.-]*\.tar")
INDEX = re.compile(r"index\.json|index/[A-Za-z0-9][A-Za-z0-9_.-]*")


class RemoteFiles:
    """The data set at `root`: http://, https://, or any address that fsspec knows (s3://, gs://, file://, memory://, ...).

    Files are fetched whole into the folder `cache` (if empty: hires/HASH under $XDG_CACHE_HOME or ~/.cache, HASH being the first 16 digits
    of the address's sha256), which should lie on the machine's own disk and may be shared by its processes and by data sets. It never holds
    more than `cache_gb` (10^9 bytes) of shards; the index is kept beside and for good. A file is given out only if its size and sha256 are
    those of the manifest: that of a file kept from an earlier run is computed once. Raises DataError if the folder cannot be made.
    """

    mend = "the data set at that address is damaged, or the cached file: start again, which checks it anew"
    open_at_once = 0  # a file held open would keep its bytes on the disk after its removal, and nobody would know that it is still in use

    def __init__(self, root: str, cache: str, cache_gb: float):
        self._origin = Origin(root)
        self.root = self._origin.shown
        self._cache = Cache(Path(cache).expanduser() if cache else _default(self.root), int(cache_gb * 1e9))
        self._wanted: dict[str, tuple[int, str]] = {}
        self._place = functools.cache(self._find_place)  # asked for with each picture
        self._ahead = Ahead(())
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._threads: set[threading.Thread] = set()
        self._looked = 0.0  # when a thread last found nothing that it could fetch

    def manifest(self) -> str:
        """Its text, always fetched, as the data set may have been made again."""
        target = io.BytesIO()
        try:
            self._origin.fetch("manifest.json", target)
            return target.getvalue().decode()
        except Missing:
            raise DataError(f"{self.root}: not finished (no manifest.json there); wanted a data set to which it was copied last") from None
        except ValueError as error:
            raise DataError(f"{self.root}/manifest.json: cannot be read ({error})") from None

    def check(self, name: str, size: int, sha256: str) -> None:
        """Notes what a file must be; raises DataError if no data set of ours has such a name, size or hash."""
        if not (SHARD.fullmatch(name) or INDEX.fullmatch(name)):
            raise DataError(f"{self.root}/manifest.json: names a file {name[:100]!r}; wanted LEVEL/NAME.tar or index/NAME")
        if type(size) is not int or size < 0 or not SHA256.fullmatch(str(sha256)):
            raise DataError(f"{self.root}/manifest.json: {name}: bytes and sha256 that cannot be; wanted a count and 64 hex digits")
        self._wanted[name] = (size, sha256)

    def path(self, name: str) -> Path:
        file = self._place(name)
        self._bring(name, wait=True)
        return file

    def open(self, name: str) -> int:
        file = self._place(name)
        self._note(name)
        while (descriptor := self._cache.open(file)) is None:
            self._bring(name, wait=True)
        return descriptor

    def prefetch(self, names: Iterable[str]) -> None:
        """Fetches ahead in that order from now on, instead of in the one given before: two windows at most, within the cache's bound.

        Warns if the bound is less than a window of this level's shards. A shard that cannot be fetched is reported, and
        tried again when opened.
        """
        names = iter(names)
        first = next(names, None)
        if first is None:
            return
        self._check_room(first.partition("/")[0])
        with self._lock:
            self._ahead = Ahead(chain([first], names))
            self._start()

    def _find_place(self, name: str) -> Path:
        if name not in self._wanted:
            raise DataError(f"{self.root}: {name[:100]!r} is not a file of this data set")
        return (self._cache.shards if SHARD.fullmatch(name) else self._cache.index) / self._wanted[name][1]

    def _bring(self, name: str, wait: bool) -> str:
        size, sha256 = self._wanted[name]
        return self._cache.bring(self._place(name), size, lambda target: self._origin.fetch(name, target, size, sha256), self._worth, wait)

    def _worth(self) -> dict[Path, float]:
        with self._lock:
            return {self._place(name): worth for name, worth in self._ahead.worth().items()}

    def _check_room(self, level: str) -> None:
        sizes = sorted((size for name, (size, _) in self._wanted.items() if name.startswith(f"{level}/")), reverse=True)
        window, limit = sum(sizes[:WINDOW]) / 1e9, self._cache.limit / 1e9
        if window > limit:
            found = f"the {min(WINDOW, len(sizes))} shards that are read at a time take {window:.3g} GB, the cache may take {limit:.3g}"
            wanted = f"wanted data.remote_gb={1.01 * window:.3g}, better {2.02 * window:.3g} (to fetch ahead)"
            log.warning("%s: level %s: %s, so each would be fetched many times; %s", self.root, level, found, wanted)

    def _note(self, name: str) -> None:
        """A shard is read: what comes after it may be fetched."""
        if self._pid != os.getpid():  # forked: the threads are not here, and may have had the lock
            self._lock, self._pid, self._threads, self._ahead = threading.Lock(), os.getpid(), set(), Ahead(())
        with self._lock:
            moved = self._ahead.move_to(name)
            if moved or (self._ahead.todo and time.monotonic() - self._looked > 1):
                self._start()

    def _start(self) -> None:
        """Starts what threads are missing; they end when nothing is left to fetch or nothing has room."""
        self._looked = time.monotonic()
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        for _ in range(THREADS - len(self._threads)):
            thread = threading.Thread(target=self._fetch_ahead, name="fetch", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _fetch_ahead(self) -> None:
        while True:
            with self._lock:
                ahead = self._ahead
                name = ahead.claim()
                if name is None:
                    self._threads.discard(threading.current_thread())
                    return
            try:
                full = self._bring(name, wait=False) == "full"
            except DataError as error:
                log.warning("%s; it was fetched ahead, and is tried again when it is needed", error)
                continue
            if full:
                with self._lock:
                    ahead.todo.appendleft(name)
                    self._threads.discard(threading.current_thread())
                return


class Ahead:
    """What is to come of an order of names: those in use, `WINDOW` up to the furthest that was read, and twice as many after them."""

    def __init__(self, names: Iterable[str]):
        self._names = iter(names)
        self._used: deque[str] = deque(maxlen=WINDOW)
        self._next: deque[str] = deque()
        self.todo: deque[str] = deque()  # of both, those that no thread has looked after

    def move_to(self, name: str) -> bool:
        """Notes that `name` is read, and says whether that is further than before."""
        if name in self._used or name not in self._next:
            return False
        while not self._used or self._used[-1] != name:
            self._used.append(self._next.popleft())
        return True

    def claim(self) -> str | None:
        """The next name to fetch, or None if all that may be fetched now was claimed."""
        while len(self._next) < 2 * WINDOW and (name := next(self._names, None)) is not None:
            self._next.append(name)
            self.todo.append(name)
        while self.todo:
            name = self.todo.popleft()
            if name in self._used or name in self._next:
                return name
        return None

    def worth(self) -> dict[str, float]:
        """How much each name is worth keeping, 0 to 1: the sooner it comes the more; least those in use, whose oldest are not any more.

        All of them are kept from what is fetched ahead; what is opened and not there takes the place of the least.
        """
        return {name: 1 / (i + 2) for i, name in reversed(list(enumerate(self._next)))} | dict.fromkeys(self._used, 0.001)


def _default(root: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base, "hires", hashlib.sha256(root.encode()).hexdigest()[:16])
