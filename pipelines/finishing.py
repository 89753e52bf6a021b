"""What makes a folder of shards a data set: index, report and, last of all, the manifest."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .codecs import codec_of
from .errors import DataError
from .listing import SPLITS
from .manifest import FORMAT, MANIFEST
from .shards import ENTRY, INDEX
from .writing import Job, finished_shard, write_whole


def finish(job: Job, path: str, licence: str, seconds: float) -> dict[str, Any]:
    """Writes index, report.json and manifest.json from the shards' ledgers, and returns the report.

    Memory grows with the number of shards and of bad pictures alone. Raises DataError if no training picture is left, or a shard vanished
    meanwhile.
    """
    (job.out / MANIFEST).unlink(missing_ok=True)  # of a data set being mended: until all is well it is not finished
    index, shards, bad = Index(job.out / "index", job.levels), {split: [] for split in SPLITS}, list(job.listing.repeated)
    histogram = np.zeros((job.identity["channels"], 256), np.int64)
    for shard in job.listing.shards:
        ledger = finished_shard(job, shard)
        if ledger is None:
            raise DataError(f"{job.out}: {shard.name} vanished, or its pictures changed, while preparing; run hires prepare again")
        bad += ledger["bad"]
        if not ledger["keys"]:
            continue
        if shard.split == "train":
            histogram += np.asarray(ledger["histogram"])
        index.add(shard.split, ledger)
        levels = {level: {"bytes": found["bytes"], "sha256": found["sha256"]} for level, found in ledger["levels"].items()}
        shards[shard.split].append({"name": shard.name, "images": len(ledger["keys"]), "levels": levels})
    counts = {split: sum(shard["images"] for shard in shards[split]) for split in SPLITS}
    if not counts["train"]:
        raise DataError(f"{job.out}: none of the {len(bad)} pictures to train on can be used, the first: {bad[0]['reason']}")
    text = json.dumps({"format": FORMAT, "entry": ENTRY.descr, "counts": counts, "files": index.close()}, indent=1)
    write_whole(job.out / INDEX, text)
    _remove_strangers(job, {shard["name"] for split in SPLITS for shard in shards[split]})
    report = {"status": "prepared", "out": str(job.out), **counts, "skipped": len(bad), "seconds": round(seconds, 1), "bad": bad}
    report |= {"left_out": job.listing.left_out, "shard_in_key": job.listing.shard_in_key}
    write_whole(job.out / "report.json", json.dumps(report, indent=1))
    mean, std = _moments(histogram)
    identity = job.identity
    manifest = {
        "format": FORMAT,
        "source": {
            "kind": identity["source"],
            "path": path,
            "images": job.listing.images + len(job.listing.repeated),
            "fingerprint": job.listing.fingerprint,
        },
        "licence": licence,
        "settings": identity,
        "counts": counts,
        "skipped": len(bad),
        "channels": identity["channels"],
        "levels": job.levels,
        "codecs": {str(level): codec_of(level, identity["codec"]).name for level in job.levels},
        "filter": identity["filter"],
        "crop": "centre square",
        "pyramid": _pyramid(job),
        "split": "held out: keys named by split.prefix or split.match, then those with the smallest sha256 of split.seed:key",
        "mean": mean,
        "std": std,
        "index": {"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()},
        "shards": shards,
    }
    job.listing.remove()  # before the manifest: who finds one does not tidy up after a process that was killed
    write_whole(job.out / MANIFEST, json.dumps(manifest, indent=1))
    return report


class Index:
    """index/: per split and level a file of one ENTRY (offset, size, CRC-32) a picture, and per split its keys, one a line.

    Written shard by shard, so memory does not grow with the data set; read by Shards, which maps it.
    """

    def __init__(self, folder: Path, levels: list[int]):
        folder.mkdir(exist_ok=True)
        self.levels = levels
        self._places: dict[tuple[str, int], Any] = {
            (split, level): (folder / f"{split}-{level}.entries").open("wb") for split in SPLITS for level in levels
        }
        self._keys: dict[str, Any] = {split: (folder / f"{split}.keys").open("w", encoding="utf-8") for split in SPLITS}

    def add(self, split: str, ledger: dict) -> None:
        """Appends the pictures of one shard."""
        self._keys[split].writelines(key + "\n" for key in ledger["keys"])
        for level in self.levels:
            rows = [tuple(row) for row in ledger["levels"][str(level)]["entries"]]
            self._places[split, level].write(np.array(rows, ENTRY).tobytes())

    def close(self) -> dict[str, dict]:
        """Brings the files to disk; name -> size in bytes and sha256."""
        found = {}
        for file in [*self._places.values(), *self._keys.values()]:
            file.flush()
            os.fsync(file.fileno())
            file.close()
            with open(file.name, "rb") as whole:
                digest = hashlib.file_digest(whole, "sha256").hexdigest()
            found[f"index/{Path(file.name).name}"] = {"bytes": os.path.getsize(file.name), "sha256": digest}
        return found


def _pyramid(job: Job) -> str:
    mean = "each pixel is the mean of the top level's pixels it covers, rounded half up"
    stored = [level for level in job.source.levels if level <= job.levels[-1]]
    return f"levels {', '.join(map(str, stored))} as the source stores them; below: {mean}" if stored else mean


def _remove_strangers(job: Job, names: set[str]) -> None:
    # Shards of an earlier, unfinished attempt on a source that has shrunk since.
    for level in job.levels:
        for file in (job.out / str(level)).glob("*.tar"):
            if file.stem not in names:
                file.unlink()


def _moments(histogram: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, in [-1, 1], of a histogram (channels, 256)."""
    values = np.arange(256) / 127.5 - 1
    weights = histogram / histogram.sum(1, keepdims=True)
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(1))
    return mean.tolist(), std.tolist()
