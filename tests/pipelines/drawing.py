"""Photograph-like pictures, and the hashes of what is made of them."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image


def draw(seed: int, width: int = 150, height: int = 140, channels: int = 3) -> np.ndarray:
    """uint8 (height, width, channels): smooth colours with a little noise, as a photograph compresses."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse, np.int16) + rng.integers(-6, 7, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)[:, :, :channels]


def fill(folder: Path, count: int, **size: int) -> Path:
    """Writes `count` JPEG files in two subfolders, a/ and b/."""
    for i in range(count):
        file = folder / "ab"[i % 2] / f"{i:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(i, **size)).save(file, quality=92)
    return folder


def hashes(out: Path) -> dict[str, str]:
    """Every file of a data set that a reader sees -> its sha256; the report's seconds are left out."""
    files = [file for file in sorted(out.rglob("*")) if file.is_file() and ".prepare" not in file.parts and file.name != "report.json"]
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
