"""`prepare` from other sources than a folder: the same pictures give the same shards, stored levels stay as they are, repeats are told."""

from collections.abc import Iterator
import json
from pathlib import Path
import sys
import tarfile
import zipfile

import numpy as np
from PIL import Image
import pytest

from pipelines import DataError, Loader, PrepareConfig, Shards, SplitConfig, prepare
from pipelines.codecs import decode
from pipelines.pyramid import pyramid
from pipelines.sources import Item, Source

SHARED = Path(__file__).parents[3] / "shared" / "data"


def shards_of(out: Path, hashes) -> dict[str, str]:
    """Hashes of all shards and of the index, not of the manifest, which names the source."""
    return {name: found for name, found in hashes(out).items() if not name.endswith("manifest.json")}


def test_a_folder_a_zip_and_tars_of_the_same_pictures_give_the_same_shards(photos, prepared, tmp_path, hashes):
    files = sorted(photos.rglob("*.jpg"))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in reversed(files):
            archive.write(file, file.relative_to(photos))
    (tmp_path / "tars").mkdir()
    for number in range(2):
        with tarfile.open(tmp_path / "tars" / f"part-{number}.tar", "w") as archive:
            for file in files[number::2]:
                archive.add(file, file.relative_to(photos))
    for path in ("photos.zip", "tars"):
        out = tmp_path / f"from {path}"
        prepare(PrepareConfig(path=str(tmp_path / path), out=str(out), resolution=128, images_per_shard=7, split=SplitConfig(5), workers=2))
        assert shards_of(out, hashes) == shards_of(Path(prepared.root), hashes)


def test_shards_can_be_prepared_again_from_shards(prepared, tmp_path):
    """Our own output is a source like any other: the top level to a smaller pyramid, say."""
    out = tmp_path / "again"
    prepare(PrepareConfig(path=f"{prepared.root}/64", out=str(out), resolution=32, workers=1))
    again = Shards.open(out)
    assert again.keys("train") == sorted(prepared.keys("train") + prepared.keys("holdout"))


@pytest.mark.parametrize("category", ["bedroom", "church_outdoor"])
def test_lsuns_own_lmdb_becomes_a_pyramid(category, tmp_path):
    path = SHARED / "lsun_tiny" / f"{category}_val_lmdb"
    if not path.is_dir():
        pytest.skip(f"LSUN's pictures are not here: they lie in ../shared/data/lsun_tiny/{category}_val_lmdb")
    report = prepare(PrepareConfig(path=str(path), out=str(tmp_path / "set"), resolution=256, licence="LSUN: non-commercial research"))
    shards = Shards.open(tmp_path / "set")
    assert report["train"] == shards.count("train") > 10 and shards.manifest["source"]["kind"] == "lsun"
    assert shards.manifest["licence"] == "LSUN: non-commercial research"
    assert all(len(key) == 40 or not key.isalnum() for key in shards.keys("train"))
    for batch in (Loader(shards, 256).read([0, 5]), Loader(shards, 4).read([0, 5])):
        assert batch.float().std() > 20  # pictures, not blanks


class StoredSource(Source):
    """Pyramids that were stored ready-made, and not quite as we would average them."""

    resolution, levels = 32, (32, 16)

    def __init__(self):
        rng = np.random.default_rng(0)
        self.tops = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
        self.halves = rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)

    def __iter__(self) -> Iterator[Item]:
        yield from (Item(f"{i}", f"stored {i}", place=(i,)) for i in range(4))

    def load(self, item: Item) -> Image.Image:
        return Image.fromarray(self.tops[item.place[0]])

    def load_levels(self, item: Item) -> list[np.ndarray]:
        return [self.tops[item.place[0]], self.halves[item.place[0]]]


@pytest.mark.parametrize("resolution", [0, 32, 16])
def test_stored_levels_are_taken_as_they_are_and_those_below_are_averaged(tmp_path, monkeypatch, resolution):
    source = StoredSource()
    monkeypatch.setattr(sys.modules["pipelines.prepare"], "open_source", lambda kind, path: source)
    prepare(PrepareConfig(source="tfrecords", path="x", out=str(tmp_path / "set"), resolution=resolution, workers=1))
    shards = Shards.open(tmp_path / "set")
    stored = {32: source.tops, 16: source.halves}
    for level in shards.levels:
        for i in range(4):
            found = decode(shards.read(level, "train", [i])[0], level, 3)
            wanted = stored[level][i] if level in stored else next(p for p in pyramid(source.halves[i]) if len(p) == level)
            assert (found == wanted).all()
    assert shards.levels == [4, 8, 16, 32][: 3 if resolution == 16 else 4]
    assert "as the source stores them" in shards.manifest["pyramid"]


def test_stored_levels_are_not_enlarged(tmp_path, monkeypatch, one_line):
    monkeypatch.setattr(sys.modules["pipelines.prepare"], "open_source", lambda kind, path: StoredSource())
    with pytest.raises(DataError) as caught:
        prepare(PrepareConfig(source="tfrecords", path="x", out=str(tmp_path / "set"), resolution=64, workers=1))
    assert one_line(caught.value).startswith("stored 0: found 32x32x3; wanted 64x64x3")


def test_two_pictures_of_one_key_are_fatal_or_reported(tmp_path, fill, draw, one_line):
    folder = fill(tmp_path / "folder", 4)
    Image.fromarray(draw(9)).save(folder / "a" / "000.png")
    config = PrepareConfig(path=str(folder), out=str(tmp_path / "set"), resolution=64, workers=1)
    with pytest.raises(DataError) as caught:
        prepare(config)
    assert "000.png: would get the key 'a/000' of" in one_line(caught.value) and not (tmp_path / "set").exists()
    report = prepare(PrepareConfig(**{**vars(config), "on_error": "skip"}))
    assert (report["train"], report["skipped"]) == (4, 1)
    assert json.loads((tmp_path / "set" / "report.json").read_text())["bad"][0]["file"].endswith("000.png")


@pytest.mark.parametrize("codec", ["png", "webp-lossless", "raw", "jpeg:97:444"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_codec_goes_through_shards_and_loader(photos, tmp_path, codec, channels):
    config = {"resolution": 128, "images_per_shard": 9, "codec": codec, "channels": channels, "workers": 1}
    prepare(PrepareConfig(path=str(photos), out=str(tmp_path / "set"), **config))
    shards = Shards.open(tmp_path / "set")
    assert shards.codec(128).name == codec and shards.codec(64).name == "png"
    batch = Loader(shards, 128).read([3])[0].permute(1, 2, 0).numpy()
    with Image.open(photos / f"{shards.keys('train')[3]}.jpg") as image:
        from pipelines.pyramid import square

        wanted = square(image, 128, channels, "lanczos", False)
    assert np.abs(batch.astype(int) - wanted).mean() <= (0 if shards.codec(128).lossless else 2)
