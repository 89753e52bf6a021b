"""From a source of pictures to a pyramid of shards: what `hires prepare` does."""

from dataclasses import asdict, dataclass, field
import json
import os
from pathlib import Path
import re
import shutil
import time
from typing import Any

from .claiming import SETTINGS, claim, refuse_other, refuse_unfinished, share, turn
from .codecs import Codec
from .comparing import compare
from .errors import DataError
from .files import LocalFiles, from_json
from .finishing import finish
from .listing import SplitConfig, write_listing
from .manifest import MANIFEST, read_manifest
from .pool import Progress, on_shards
from .pyramid import FILTERS, levels_up_to
from .shards import Shards
from .sources import Source, detect, open_source
from .writing import WORK, Job, finished_shard, new_job, write_shard, write_whole

HOW = ("path", "out", "on_error", "workers", "part", "licence")  # settings that say how to work, not what comes out


@dataclass
class PrepareConfig:
    """hires prepare: a pyramid of shards out of pictures in a folder, an archive, LSUN's lmdb, TFRecords, Parquet, IDX, … (docs/data.md).
    hires prepare path=pictures out=data/mine resolution=256 split.holdout=1000
    hires prepare source=digits out=data/digits
    """

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
    part: str = ""  # 2/4: of four such processes, on any machines, this one makes every fourth shard; the last one to finish completes


def prepare(config: PrepareConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Writes `config.out` and returns its report: status (prepared | already complete), counts per split, skipped pictures, seconds.

    The folder gets {4,8,...}/shard-00000.tar (and holdout-00000.tar), index.json, index/, report.json and, last, manifest.json. Each
    picture is decoded once, cropped to its centre square and resized to the top level; the levels below are exact box averages
    (pictures.pyramid).
    The same source and settings give the same bytes whatever the workers, and the same command again continues where it was killed.
    With part=2/4 it makes every fourth shard; where the others are done too it completes the set, else its status says what is not.
    `progress(done, total)` is called about twice a second. Raises DataError for a bad setting, a bad picture or two with one key
    (on_error=fail), an `out` that holds something else, a full disk.
    """
    started, out = time.monotonic(), Path(config.out)
    _check(config)
    manifest = read_manifest(LocalFiles(out)) if (out / MANIFEST).exists() else None
    kind, source = _open(config, manifest)
    identity = _identity(config, kind, source, manifest)
    levels = levels_up_to(identity["resolution"])
    report = _already_complete(config, out, identity, source, manifest, progress)
    if report:
        return report
    if source is None:
        raise DataError(f"path={config.path}: gone, and {out} needs mending from it")
    with claim(out, identity, config.part) as own:
        seen = (lambda count: progress(count, None)) if progress else None
        listing = write_listing(source, own, config.split, config.images_per_shard, config.on_error, seen)
        with turn(out):
            refuse_unfinished(out, identity)  # another part may have begun meanwhile
            write_whole(out / WORK / SETTINGS, json.dumps(identity))
        for level in levels:
            (out / str(level)).mkdir(exist_ok=True)
        job = new_job(source, listing, out, levels, identity, config.on_error)
        first, step = share(config.part)
        mine = listing.shards[first - 1 :: step]
        todo = [shard for shard in mine if finished_shard(job, shard) is None]
        job.done.value = sum(shard.images for shard in mine) - sum(shard.images for shard in todo)
        on_shards(write_shard, job, todo, config.workers, progress)
        if not config.part:
            for left in (out / WORK).glob("part-*"):  # of parts that were killed
                shutil.rmtree(left)
        with turn(out):  # of two parts that end together one completes
            report = _complete(config, job, identity, source, time.monotonic() - started)
        listing.remove()
        return report


def _complete(config: PrepareConfig, job: Job, identity: dict[str, Any], source: Source, seconds: float) -> dict[str, Any]:
    """The report of the whole where all shards are there, else of a part."""
    if config.part:
        lacking = [shard for shard in job.listing.shards if finished_shard(job, shard) is None]
        if lacking:
            status = f"part {config.part} is done, {len(lacking)} shards of others are not"
            return {"status": status, "out": str(job.out), "images": job.done.value, "seconds": round(seconds, 1)}
        manifest = read_manifest(LocalFiles(job.out)) if (job.out / MANIFEST).exists() else None
        report = _already_complete(config, job.out, identity, source, manifest, None)
        if report:
            return report
    return finish(job, config.path, config.licence, seconds)


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
    try:
        re.compile(config.split.match)
    except re.error as error:
        raise DataError(f"split.match={config.split.match}: no regular expression ({error})") from error
    if config.resolution:
        levels_up_to(config.resolution)
    Codec(config.codec)
    share(config.part)


def _identity(config: PrepareConfig, kind: str, source: Source | None, manifest: dict | None) -> dict[str, Any]:
    """The settings that the bytes depend on, with the source's own filled in; raises DataError where a size is missing or too large."""
    settings = {name: value for name, value in asdict(config).items() if name not in HOW}
    if not config.split.match:  # as in what was prepared before there was this setting
        del settings["split"]["match"]
    own = manifest["settings"] if source is None else {"resolution": source.resolution, "channels": source.channels}
    resolution = config.resolution or own["resolution"]
    if not resolution:
        raise DataError("resolution=0: wanted the top level's, a power of two such as 64 or 1024")
    if kind == "digits" and resolution > 32:
        raise DataError(f"resolution={resolution}: digits are 8x8 pixels; wanted at most 32")
    return {**settings, "source": kind, "resolution": resolution, "channels": config.channels or own["channels"]}


def _already_complete(
    config: PrepareConfig, out: Path, identity: dict[str, Any], source: Source | None, manifest: dict | None, progress: Progress | None
) -> dict[str, Any] | None:
    """The report of a finished `out` that is what `config` asks for; None if there is none or a file of it needs mending."""
    if manifest is None:
        return None
    refuse_other(out, manifest["settings"], identity, "holds a data set")
    compared = f"nothing, {config.path} is gone"
    if source:
        compared = compare(source, out, manifest, config.split, config.workers, progress)
    if config.licence and config.licence != manifest["licence"]:
        write_whole(out / MANIFEST, json.dumps({**manifest, "licence": config.licence}, indent=1))
    try:
        Shards.open(out)
        report = from_json((out / "report.json").read_bytes())
    except (DataError, OSError, ValueError):  # a file was lost or cut short since
        return None
    return {**report, "status": "already complete", "compared": compared}
