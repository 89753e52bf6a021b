"""Runs written by hand: what a trainer leaves in a folder, without training."""

from functools import cache
import json
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from PIL import Image
import torch

from hires import config as configuration
from hires.checkpoints import reading
from hires.ground.images import save_grid
from hires.report.run import Run, read

LEVELS = ["schedule.resolution=8", "schedule.levels.4.stable=400", "schedule.levels.8.fade=200", "schedule.levels.8.stable=400"]
SMALL = ["schedule.levels.4.batch=10", "schedule.levels.8.batch=10", "network=slim", "train.trial=false"]
TOTAL = 1000
EVERY = 100
SPEED = 30.0  # seconds a thousand images


@cache
def _settings(more: tuple[str, ...]) -> str:
    config = configuration.load("train", ["run=RUN", "data.root=data/none", *LEVELS, *SMALL, *more])
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def statuses(upto: int = TOTAL, **values) -> list[dict]:
    """Progress lines every hundred images, as the monitor writes them; `values`: name -> a number, or a function of images."""
    records = []
    for images in range(EVERY, upto + 1, EVERY):
        resolution, alpha = (4, 1.0) if images <= 400 else (8, min(1.0, (images - 400) / 200))
        record = {"images": images, "resolution": resolution, "alpha": alpha, "batch": 10, "lr": 1e-3}
        record |= {"seconds_per_kimg": SPEED, "memory_gb": 0.5, "energy_gap": 2.5, "energy_size": 1.2, "R": 40 / images, "diversity": 0.9}
        records.append(record | {name: value(images) if callable(value) else value for name, value in values.items()})
    return records


def checkpoint(folder: Path, images: int, time: float = 0.0, damaged: bool = False, measured: dict | None = None, **config) -> Path:
    """A checkpoint whose one file is two bytes long; `config`: what its manifest holds as settings."""
    path = folder / "checkpoints" / reading.folder_name(images)
    path.mkdir(parents=True)
    (path / "rank.safetensors").write_bytes(b"ab")
    manifest = {
        "format": reading.FORMAT, "images": images, "world_size": 1, "steps": {}, "resolution": 4 if images <= 400 else 8, "fading": False,
        "alpha": 1.0, "zero_stage": 1, "attempt": 0, "data": "", "time": time, "config": config, "measured": measured or {},
        "files": [{"name": "rank.safetensors", "bytes": 2, "blake3": ""}],
    }  # fmt: skip
    (path / reading.MANIFEST).write_text(reading.manifest_text(manifest))
    if damaged:
        (path / "rank.safetensors").unlink()
    return path


def write(folder: Path, records: list[dict] | None = None, *more: str, grids: bool = False) -> Path:
    """A run's folder: settings, progress lines, and with `grids` samples, reconstructions and pictures of the data."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(_settings(more).replace("run: RUN", f"run: {json.dumps(str(folder))}"))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "world_size": 1, "device": "a CPU"}))
    records = statuses() if records is None else records
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if grids:
        noise = torch.Generator().manual_seed(0)
        for images in range(200, TOTAL + 1, 200):
            side = 4 if images <= 400 else 8
            for kind, count in (("fakes", 16), ("reconstructions", 16)):
                pictures = torch.rand(count, 3, side, side, generator=noise) * 2 - 1
                save_grid(pictures, folder / "samples" / f"{kind}-{images:012d}-{side}x{side}.png")
        save_grid(torch.rand(8, 3, 8, 8, generator=noise) * 2 - 1, folder / "samples" / "reals-8x8.png")
    return folder


def evaluation(folder: Path, images: int, picture: str = "", pictures: int = 50, **found) -> None:
    """What `hires evaluate` leaves; with `picture` a picture of that name beside it."""
    record = {"of": f"{folder} ({images} images)", "data": "data/none", "resolution": 8, "images": pictures, **found}
    if picture:
        path = folder / f"measures-{images:012d}" / picture
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(path)
        record["sheet"] = picture
    (folder / f"evaluation-{images:012d}.json").write_text(json.dumps(record))


def opened(folder: Path) -> Run:
    return read(folder)
