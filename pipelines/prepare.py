"""From a source of pictures to a pyramid of shards: what `hires prepare` does."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
import fcntl
import json
import multiprocessing
import os
from pathlib import Path
import shutil
import tempfile
import time
from typing import Any

from .codecs import Codec
from .errors import DataError
from .files import LocalFiles
from .finishing import finish
from .listing import SplitConfig, fingerprint, write_listing
from .manifest import MANIFEST, read_manifest
from .pictures import FILTERS, levels_up_to
from .pool import Progress, write_shards
from .shards import Shards
from .sources import Source, detect, open_source
from .writing import WORK, Job, finished_shard, write_whole

SETTINGS = "settings.json"  # in WORK: what an unfinished data set is to become
HOW = ("path", "out", "on_error", "workers", "licence")  # settings that say how to work, not what comes out


@dataclass
class PrepareConfig:
    """What to prepare, from where, and how."""

    source: str = "auto"  # auto | folder | zip | lsun | tfrecords | parquet | webdataset | idx | cifar10 | torchvision | digits
    path: str = ""  # of the source; digits need none
    out: str = ""  # the folder to write
    resolution: int = 0  # of the top level; 0: the source's own where it has one
    channels: int = 0  # 3 or 1; 0: the source's own
    filter: str = "lanczos"  # lanczos | bicubic | bilinear | box: from the centre square to the top level
    codec: str = "jpeg:97:444"  # png | webp-lossless | raw | jpeg:QUALITY:SUBSAMPLING, of the levels above 64; up to 64 it is PNG
    allow_upscale: bool = False  # pictures below the resolution: enlarge instead of refuse
    images_per_shard: int = 1000
    split: SplitConfig = field(default_factory=SplitConfig)
    licence: str = ""  # under which the pictures may be used, for the manifest
    on_error: str = "fail"  # fail | skip: what a bad picture does
    workers: int = 0  # processes; 0: one per core


def prepare(config: PrepareConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Writes `config.out` and returns its report: status (prepared | already complete), counts per split, skipped pictures, seconds.

    The folder gets {4,8,...}/shard-00000.tar (and holdout-00000.tar), index.json, index/, report.json and, last, manifest.json. Each
    picture is decoded once, cropped to its centre square and resized to the top level; the levels below are exact box averages
    (pictures.pyramid).
    The same source and settings give the same bytes whatever the workers, and the same command again continues where it was killed.
    `progress(done, total)` is called about twice a second. Raises DataError for a bad setting, a bad picture or two with one key
    (on_error=fail), an `out` that holds something else, a full disk.
    """
    started, out = time.monotonic(), Path(config.out)
    _check(config)
    manifest = read_manifest(LocalFiles(out)) if (out / MANIFEST).exists() else None
    kind, source = _open(config, manifest)
    identity = _identity(config, kind, source, manifest)
    levels = levels_up_to(identity["resolution"])
    report = _already_complete(config, out, identity, source, manifest)
    if report:
        return report
    if source is None:
        raise DataError(f"path={config.path}: gone, and {out} needs mending from it")
    with _claim(out, identity):
        seen = (lambda count: progress(count, None)) if progress else None
        listing = write_listing(source, out / WORK, config.split, config.images_per_shard, config.on_error, seen)
        write_whole(out / WORK / SETTINGS, json.dumps(identity))
        for level in levels:
            (out / str(level)).mkdir(exist_ok=True)
        fork = multiprocessing.get_context("fork")
        job = Job(source, listing, out, levels, identity, config.on_error, fork.Event(), fork.Value("q", 0))
        todo = [shard for shard in listing.shards if finished_shard(job, shard) is None]
        job.done.value = listing.images - sum(shard.images for shard in todo)
        write_shards(job, todo, config.workers or len(os.sched_getaffinity(0)), progress)
        report = finish(job, config.path, config.licence, time.monotonic() - started)
        listing.remove()
        return report


def _open(config: PrepareConfig, manifest: dict | None) -> tuple[str, Source | None]:
    """The kind of source and the source, or None where it was put away after `out` was made of it, which is no reason to fail."""
    done = manifest["source"] if manifest else {}
    on_disk = config.path and config.source not in ("digits", "torchvision") and "{" not in config.path  # `path` is a file's or folder's
    same = config.path == done.get("path") and config.source in ("auto", done["kind"])
    if on_disk and same and not os.path.exists(config.path):
        return done["kind"], None
    kind = detect(config.path) if config.source == "auto" else config.source
    return kind, open_source(kind, config.path)


def _check(config: PrepareConfig) -> None:
    """Raises DataError for the first setting that cannot be."""
    wrong = [
        (not config.out, "out=: empty; wanted the folder to write"),
        (config.channels not in (0, 1, 3), f"channels={config.channels}: wanted 1 or 3"),
        (config.filter not in FILTERS, f"filter={config.filter}: unknown; wanted one of {', '.join(FILTERS)}"),
        (config.on_error not in ("fail", "skip"), f"on_error={config.on_error}: unknown; wanted fail or skip"),
        (config.images_per_shard < 1, f"images_per_shard={config.images_per_shard}: wanted at least 1"),
        (config.split.holdout < 0, f"split.holdout={config.split.holdout}: wanted a number of pictures, from 0 up"),
        (config.workers < 0, f"workers={config.workers}: wanted a number of processes, or 0 for one per core"),
    ]
    for is_wrong, message in wrong:
        if is_wrong:
            raise DataError(message)
    if config.resolution:
        levels_up_to(config.resolution)
    Codec(config.codec)


def _identity(config: PrepareConfig, kind: str, source: Source | None, manifest: dict | None) -> dict[str, Any]:
    """The settings that the bytes depend on, with the source's own filled in; raises DataError where a size is missing or too large."""
    settings = {name: value for name, value in asdict(config).items() if name not in HOW}
    own = manifest["settings"] if source is None else {"resolution": source.resolution, "channels": source.channels}
    resolution = config.resolution or own["resolution"]
    if not resolution:
        raise DataError("resolution=0: wanted the top level's, a power of two such as 64 or 1024")
    if kind == "digits" and resolution > 32:
        raise DataError(f"resolution={resolution}: digits are 8x8 pixels; wanted at most 32")
    return {**settings, "source": kind, "resolution": resolution, "channels": config.channels or own["channels"]}


def _already_complete(
    config: PrepareConfig, out: Path, identity: dict[str, Any], source: Source | None, manifest: dict | None
) -> dict[str, Any] | None:
    """The report of a finished `out` that is what `config` asks for; None if there is none or a file of it needs mending."""
    if manifest is None:
        return None
    _refuse_other(out, manifest["settings"], identity, "holds a data set")
    if source:
        with tempfile.TemporaryDirectory() as scratch:
            found = fingerprint(source, Path(scratch))
        if found != manifest["source"]["fingerprint"]:
            raise DataError(f"{out}: made of other pictures than {config.path}: choose another out=, or remove that folder")
    if config.licence and config.licence != manifest["licence"]:
        write_whole(out / MANIFEST, json.dumps({**manifest, "licence": config.licence}, indent=1))
    try:
        Shards.open(out)
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    except (DataError, OSError, ValueError):  # a file was lost or cut short since
        return None
    return {**report, "status": "already complete"}


def _refuse_other(out: Path, found: dict, wanted: dict, what: str) -> None:
    differs = [name for name in wanted if found.get(name) != wanted[name]]
    if differs:
        theirs = ", ".join(_setting(name, found.get(name)) for name in differs)
        ours = ", ".join(_setting(name, wanted[name]) for name in differs)
        raise DataError(f"{out}: {what} with {theirs}; wanted {ours}: choose another out=, or remove that folder")


def _setting(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(_setting(f"{name}.{key}", inner) for key, inner in value.items())
    return f"{name}={value}"


@contextmanager
def _claim(out: Path, identity: dict[str, Any]) -> Iterator[None]:
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
        try:
            if (work / SETTINGS).exists():
                _refuse_other(out, json.loads((work / SETTINGS).read_text(encoding="utf-8")), identity, "holds an unfinished data set")
            yield
        except OSError as error:  # what workers meet is a DataError already
            raise DataError(f"{out}: cannot be written ({error.strerror or error}); run hires prepare again once mended") from error
        finally:
            if not (work / SETTINGS).exists():  # nothing was begun: leave nothing behind
                shutil.rmtree(work)
                with suppress(OSError):  # it may hold something, or have been there before
                    out.rmdir()


def _lock(descriptor: int, out: Path) -> None:
    # Workers share the lock and outlive a killed parent by up to a second: wait for them rather than write into their files.
    for _ in range(30):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
    raise DataError(f"{out}: another hires prepare is writing there; wait for it or choose another out=")
