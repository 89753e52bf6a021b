"""What makes a folder of shards a data set: index, report and, last of all, the manifest."""

from collections.abc import Sequence
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .codecs import LOSSLESS_UP_TO
from .errors import DataError
from .shards import FORMAT, MANIFEST, SPLITS
from .sources import source_fingerprint
from .writing import Job, Shard, finished_shard, write_whole


def finish(job: Job, plan: Sequence[Shard], path: str, seconds: float) -> dict[str, Any]:
    """Writes index, report.json and manifest.json from the shards' ledgers, and returns the report.

    Raises DataError if no training picture is left, or a shard vanished meanwhile.
    """
    (job.out / MANIFEST).unlink(missing_ok=True)  # of a data set being mended: until all is well it is not finished
    index, shards, bad = Index(job.out / "index", job.levels), {split: [] for split in SPLITS}, []
    histogram = np.zeros((job.identity["channels"], 256), np.int64)
    for shard in plan:
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
    index_files = index.close()
    _remove_strangers(job, {shard["name"] for split in SPLITS for shard in shards[split]})
    report = {"status": "prepared", "out": str(job.out), **counts, "skipped": len(bad), "seconds": round(seconds, 1), "bad": bad}
    write_whole(job.out / "report.json", json.dumps(report, indent=1))
    mean, std = _moments(histogram)
    identity = job.identity
    manifest = {
        "format": FORMAT,
        "source": {"path": path, "images": len(job.source.items), "fingerprint": source_fingerprint(job.source)},
        "settings": identity,
        "counts": counts,
        "skipped": len(bad),
        "channels": identity["channels"],
        "levels": job.levels,
        "codec": {f"up to {LOSSLESS_UP_TO}": "png", "above": identity["codec"]},
        "filter": identity["filter"],
        "crop": "centre square",
        "pyramid": "each pixel is the mean of the top level's pixels it covers, rounded half up",
        "split": "held out: keys that start with holdout_prefix, then those with the smallest sha256 of holdout_seed:key",
        "mean": mean,
        "std": std,
        "index": index_files,
        "shards": shards,
    }
    write_whole(job.out / MANIFEST, json.dumps(manifest, indent=1))
    return report


class Index:
    """index/: per split and level a file of little-endian int64 pairs (offset, size), and per split its keys, one a line.

    Written shard by shard, so memory does not grow with the data set; read by Shards, which maps it.
    """

    def __init__(self, folder: Path, levels: list[int]):
        folder.mkdir(exist_ok=True)
        self.levels = levels
        self._places = {(split, level): (folder / f"{split}-{level}.offsets").open("wb") for split in SPLITS for level in levels}
        self._keys = {split: (folder / f"{split}.keys").open("w", encoding="utf-8") for split in SPLITS}

    def add(self, split: str, ledger: dict) -> None:
        """Appends the pictures of one shard."""
        self._keys[split].writelines(key + "\n" for key in ledger["keys"])
        for level in self.levels:
            self._places[split, level].write(np.asarray(ledger["levels"][str(level)]["samples"], "<i8").tobytes())

    def close(self) -> dict[str, int]:
        """Brings the files to disk; their names and sizes in bytes."""
        sizes = {}
        for file in [*self._places.values(), *self._keys.values()]:
            file.flush()
            os.fsync(file.fileno())
            file.close()
            sizes[Path(file.name).name] = os.path.getsize(file.name)
        return sizes


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
