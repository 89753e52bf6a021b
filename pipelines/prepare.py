"""From a source of pictures to a pyramid of shards: what `hires prepare` does."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
import fcntl
import hashlib
import heapq
import json
import multiprocessing
import os
from pathlib import Path
import signal
import threading
import time
from typing import Any
import warnings

from .codecs import Codec
from .errors import DataError
from .finishing import finish
from .pictures import FILTERS, levels_up_to
from .shards import MANIFEST, Shards, read_manifest
from .sources import Source, open_source, source_fingerprint
from .writing import WORK, Job, Shard, Stopped, finished_shard, write_shard, write_whole

Progress = Callable[[int, int], None]  # (pictures done, pictures in all)
HOW = ("path", "out", "on_error", "workers")  # settings that say how to work, not what comes out


@dataclass
class PrepareConfig:
    """What to prepare, from where, and how."""

    source: str = "folder"  # folder | digits
    path: str = ""  # of the source; digits need none
    out: str = ""  # the folder to write
    resolution: int = 0  # of the top level; 0: 32 for digits, must be given for folders
    channels: int = 0  # 3 or 1; 0: 1 for digits, 3 otherwise
    filter: str = "lanczos"  # lanczos | bicubic | bilinear | box: from the centre square to the top level
    codec: str = "jpeg:97:444"  # png | jpeg:QUALITY:SUBSAMPLING, of the levels above 64; up to 64 it is PNG
    allow_upscale: bool = False  # pictures below the resolution: enlarge instead of refuse
    images_per_shard: int = 1000
    holdout: int = 0  # pictures never trained on, chosen by hash of key and holdout_seed
    holdout_seed: int = 0
    holdout_prefix: str = ""  # pictures whose key starts so are held out as well, e.g. test/
    on_error: str = "fail"  # fail | skip: what a bad picture does
    workers: int = 0  # processes; 0: one per core


def prepare(config: PrepareConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Writes `config.out` and returns its report: status (prepared | already complete), counts per split, skipped pictures, seconds.

    The folder gets {4,8,...}/shard-00000.tar (and holdout-00000.tar), index/, report.json and, last, manifest.json. Each picture is
    decoded once, cropped to its centre square and resized to the top level; the levels below are exact box averages (pictures.pyramid).
    The same source and settings give the same bytes whatever the workers, and the same command again continues where it was killed.
    `progress(done, total)` is called about twice a second. Raises DataError for a bad setting, a bad picture (on_error=fail),
    an `out` that holds something else, a full disk.
    """
    started = time.monotonic()
    identity = _identity(config)
    levels = levels_up_to(identity["resolution"])
    out = Path(config.out)
    report = _already_complete(config, out, identity)
    if report:
        return report
    source = open_source(config.source, config.path)
    plan = split_into_shards(source, config)
    with _claim(out, identity, levels):
        fork = multiprocessing.get_context("fork")
        job = Job(source, out, levels, identity, config.on_error, fork.Event(), fork.Value("q", 0))
        todo = [shard for shard in plan if finished_shard(job, shard) is None]
        job.done.value = len(source.items) - sum(len(shard.items) for shard in todo)
        _write_all(job, todo, config.workers or len(os.sched_getaffinity(0)), progress)
        return finish(job, plan, config.path, time.monotonic() - started)


def split_into_shards(source: Source, config: PrepareConfig) -> list[Shard]:
    """The shards of both splits, pictures in order of key; raises DataError if one split would have none that was asked for."""
    keys = [item.key for item in source.items]
    prefix = config.holdout_prefix
    held = {i for i, key in enumerate(keys) if prefix and key.startswith(prefix)}
    if prefix and not held:
        raise DataError(f"holdout_prefix={prefix}: no key starts with it; keys look like '{keys[0]}'")
    if len(keys) <= len(held) + config.holdout:
        raise DataError(f"{len(held) + config.holdout} of {len(keys)} pictures would be held out; wanted at least one to train on")

    def draw(i: int) -> bytes:
        return hashlib.sha256(f"{config.holdout_seed}:{keys[i]}".encode()).digest()

    held.update(heapq.nsmallest(config.holdout, (i for i in range(len(keys)) if i not in held), key=draw))
    shards = []
    for split in ("train", "holdout"):
        items = [i for i in range(len(keys)) if (i in held) == (split == "holdout")]
        starts = range(0, len(items), config.images_per_shard)
        shards += [Shard(split, n, items[first : first + config.images_per_shard]) for n, first in enumerate(starts)]
    return shards


def _identity(config: PrepareConfig) -> dict[str, Any]:
    """The settings that the bytes depend on, defaults filled in; raises DataError for one that cannot be."""
    digits = config.source == "digits"
    resolution, channels = config.resolution or (32 if digits else 0), config.channels or (1 if digits else 3)
    wrong = [
        (not config.out, "out=: empty; wanted the folder to write"),
        (config.source not in ("folder", "digits"), f"source={config.source}: unknown; wanted folder or digits"),
        (not resolution, "resolution=0: wanted the top level's, a power of two such as 64 or 1024"),
        (digits and resolution > 32, f"resolution={resolution}: digits are 8x8 pixels; wanted at most 32"),
        (channels not in (1, 3), f"channels={channels}: wanted 1 or 3"),
        (config.filter not in FILTERS, f"filter={config.filter}: unknown; wanted one of {', '.join(FILTERS)}"),
        (config.on_error not in ("fail", "skip"), f"on_error={config.on_error}: unknown; wanted fail or skip"),
        (config.images_per_shard < 1, f"images_per_shard={config.images_per_shard}: wanted at least 1"),
        (config.holdout < 0, f"holdout={config.holdout}: wanted a number of pictures, from 0 up"),
        (config.workers < 0, f"workers={config.workers}: wanted a number of processes, or 0 for one per core"),
    ]
    for is_wrong, message in wrong:
        if is_wrong:
            raise DataError(message)
    levels_up_to(resolution)
    Codec(config.codec)
    settings = {name: value for name, value in vars(config).items() if name not in HOW}
    return {**settings, "resolution": resolution, "channels": channels}


def _already_complete(config: PrepareConfig, out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The report of a finished `out` that is what `config` asks for; None if there is none or a file of it needs mending."""
    if not (out / MANIFEST).exists():
        return None
    manifest = read_manifest(out)
    _refuse_other(out, manifest["settings"], identity, "holds a data set")
    # A source that has been put away since is no reason to fail: the same path was prepared.
    if config.source != "folder" or Path(config.path).exists() or config.path != manifest["source"]["path"]:
        fingerprint = source_fingerprint(open_source(config.source, config.path))
        if fingerprint != manifest["source"]["fingerprint"]:
            raise DataError(f"{out}: made of other pictures than {config.path}: choose another out=, or remove that folder")
    try:
        Shards.open(out)
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    except (DataError, OSError, ValueError):  # a file was lost or cut short since
        return None
    return {**report, "status": "already complete"}


def _refuse_other(out: Path, found: dict, wanted: dict, what: str) -> None:
    differs = [name for name in wanted if found.get(name) != wanted[name]]
    if differs:
        theirs = ", ".join(f"{name}={found.get(name)}" for name in differs)
        ours = ", ".join(f"{name}={wanted[name]}" for name in differs)
        raise DataError(f"{out}: {what} with {theirs}; wanted {ours}: choose another out=, or remove that folder")


@contextmanager
def _claim(out: Path, identity: dict[str, Any], levels: list[int]) -> Iterator[None]:
    """Makes `out` ours alone while inside; raises DataError if it holds something else or someone else is writing there."""
    work = out / WORK
    try:
        if not work.is_dir() and out.is_dir() and any(out.iterdir()):
            raise DataError(f"{out}: not empty, and not written by hires prepare; wanted a new or empty folder")
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / "lock").open("w")
    except OSError as error:
        raise DataError(f"out={out}: cannot be written ({error.strerror})") from error
    with lock:
        _lock(lock.fileno(), out)
        settings = work / "settings.json"
        try:
            if settings.exists():
                _refuse_other(out, json.loads(settings.read_text(encoding="utf-8")), identity, "holds an unfinished data set")
            write_whole(settings, json.dumps(identity))
            for level in levels:
                (out / str(level)).mkdir(exist_ok=True)
            yield
        except OSError as error:  # what workers meet is a DataError already
            raise DataError(f"{out}: cannot be written ({error.strerror or error}); run hires prepare again once mended") from error


def _lock(descriptor: int, out: Path) -> None:
    # Workers share the lock and outlive a killed parent by up to a second: wait for them rather than write into their files.
    for _ in range(30):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
    raise DataError(f"{out}: another hires prepare is writing there; wait for it or choose another out=")


def _write_all(job: Job, todo: list[Shard], workers: int, progress: Progress | None) -> None:
    waiting, running, total = deque(todo), set(), len(job.source.items)
    if not todo:
        return
    context = multiprocessing.get_context("fork")
    count = min(workers, len(todo))
    with ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=(job, os.getpid())) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < 2 * count:
                    running.add(pool.submit(_work, waiting.popleft()))
                finished, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                if progress:
                    progress(job.done.value, total)
        except BrokenProcessPool as error:
            raise DataError(f"{job.out}: a worker was killed, perhaps for memory; run hires prepare again with fewer workers") from error
        finally:
            job.stop.set()


_job: Job  # in a worker: set when it starts


def _start_worker(job: Job, parent: int) -> None:
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and says stop
    warnings.simplefilter("ignore")  # Pillow's remarks on odd files that decode all the same
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    # A killed parent cannot say stop, and a pool's workers would wait for it for ever.
    while os.getppid() == parent:
        time.sleep(0.3)
    os._exit(1)


def _work(shard: Shard) -> None:
    with suppress(Stopped):
        write_shard(_job, shard)
