"""Pictures to prepare: drawn ones, and real ones where they lie beside the project."""

from collections.abc import Callable
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image
import pytest

from pipelines import PrepareConfig, Shards, SplitConfig, prepare

SHARED = Path(__file__).parents[3] / "shared" / "data"


def _draw(seed: int, width: int = 150, height: int = 140, channels: int = 3) -> np.ndarray:
    """uint8 (height, width, channels): smooth colours with a little noise, as a photograph compresses."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse, np.int16) + rng.integers(-6, 7, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)[:, :, :channels]


def _fill(folder: Path, count: int, **size: int) -> Path:
    """Writes `count` JPEG files in two subfolders, a/ and b/."""
    for i in range(count):
        file = folder / "ab"[i % 2] / f"{i:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_draw(i, **size)).save(file, quality=92)
    return folder


def _hashes(out: Path) -> dict[str, str]:
    """Every file of a data set that a reader sees -> its sha256; the report's seconds are left out."""
    files = [file for file in sorted(out.rglob("*")) if file.is_file() and ".prepare" not in file.parts and file.name != "report.json"]
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="session")
def draw() -> Callable[..., np.ndarray]:
    """draw(seed, width, height, channels) -> a photograph-like uint8 (height, width, channels)."""
    return _draw


@pytest.fixture(scope="session")
def fill() -> Callable[..., Path]:
    """fill(folder, count, width=, height=) -> the folder, with JPEG files in a/ and b/."""
    return _fill


@pytest.fixture(scope="session")
def hashes() -> Callable[[Path], dict[str, str]]:
    """hashes(out) -> sha256 of every file of a data set."""
    return _hashes


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30 JPEG files, 150x140; not to be changed."""
    return _fill(tmp_path_factory.mktemp("photos"), 30)


@pytest.fixture(scope="session")
def prepared(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """`photos` at 4..128 with 5 held out, 7 a shard; not to be changed."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    prepare(PrepareConfig(path=str(photos), out=str(out), resolution=128, images_per_shard=7, split=SplitConfig(holdout=5), workers=1))
    return Shards.open(out)


@pytest.fixture(scope="session")
def faces() -> Path:
    """Real 1024x1024 faces."""
    folder = SHARED / "faces1024"
    if not folder.is_dir():
        pytest.skip("real faces are not here: they lie in ../shared/data/faces1024")
    return folder


@pytest.fixture
def one_line() -> Callable[[BaseException], str]:
    """Checks that an error is one line, and gives it."""

    def check(error: BaseException) -> str:
        assert "\n" not in str(error)
        return str(error)

    return check
