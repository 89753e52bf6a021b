"""LSUN's lmdb: entries and values as the lmdb package reads them, and damage told with the file's name."""

import io
import multiprocessing
from pathlib import Path
import struct

import numpy as np
from PIL import Image
import pytest

from pipelines import DataError
from pipelines.sources.lmdb_pages import BRANCH, MAGIC, META, NODE, PAGE, VERSION
from pipelines.sources.lsun import LsunSource

lmdb = pytest.importorskip("lmdb", reason="lmdb, which the values are compared with, is not installed")
LSUN = Path(__file__).parents[4] / "shared" / "data" / "lsun_tiny"


def picture(seed: int, suffix: str, side: int = 40) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(out, suffix)
    return out.getvalue()


def write(folder: Path, values: dict[bytes, bytes]) -> Path:
    with lmdb.open(str(folder), map_size=1 << 30, sync=False) as env, env.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    return folder


def reference(folder: Path) -> dict[str, bytes]:
    with lmdb.open(str(folder), readonly=True, lock=False) as env, env.begin() as transaction:
        return {key.decode(): value for key, value in transaction.cursor()}


def check(folder: Path) -> None:
    """Each key and each byte of the lmdb package's."""
    wanted, data = reference(folder), (folder / "data.mdb").read_bytes()
    items = list(LsunSource(str(folder)))
    assert [item.key for item in items] == list(wanted)
    assert all(data[item.place[0] :][: item.size] == wanted[item.key] for item in items)


def expect(path: Path, one_line, *found: str) -> None:
    with pytest.raises(DataError) as caught:
        list(LsunSource(str(path)))
    assert all(text in one_line(caught.value) for text in (str(path), *found)), caught.value


@pytest.fixture
def real() -> Path:
    if not LSUN.is_dir():
        pytest.skip("LSUN's lmdbs are not here: they lie in ../shared/data/lsun_tiny")
    return LSUN


@pytest.mark.parametrize("category", ["bedroom", "church_outdoor"])
def test_lsuns_own_layout_in_a_folder_that_cannot_be_written(real, category):
    folder = real / f"{category}_val_lmdb"
    check(folder)
    # The values are lossy WebP of the pictures beside, and about half of them go by the same name.
    pngs = {file.stem: np.asarray(Image.open(file), np.int16) for file in (real / "images" / category).iterdir()}
    source, values, alike = LsunSource(str(folder)), reference(folder), 0
    for item in source:
        pixels = np.asarray(source.load(item))
        assert np.array_equal(pixels, Image.open(io.BytesIO(values[item.key])))
        if item.key in pngs:
            distances = {name: np.abs(pixels - png).mean() for name, png in pngs.items() if png.shape == pixels.shape}
            assert min(distances, key=distances.get) == item.key and distances[item.key] < 5
            alike += 1
    assert alike >= 5


@pytest.mark.parametrize("count", [1, 2, 100, 3000])  # trees of one to three levels
def test_entries_are_those_of_the_lmdb_package(tmp_path, count):
    rng = np.random.default_rng(count)
    sizes = rng.choice([0, 1, 100, 1900, 2100, 4080, 4081, 9000], count)  # in the key's page, and in one or more of their own
    keys = [rng.bytes(20).hex().encode()[: rng.integers(10, 41)] for _ in range(count)]
    folder = write(tmp_path / "x_train_lmdb", {key: rng.bytes(int(size)) for key, size in zip(keys, sizes, strict=True)})
    with lmdb.open(str(folder), map_size=1 << 30) as env, env.begin(write=True) as transaction:  # the newer head is now the other one
        transaction.put(b"new", b"value")
        for key in keys[1::3]:
            transaction.delete(key)
    (folder / "lock.mdb").unlink()
    check(folder)


def test_webp_and_jpeg_values_in_forked_workers(tmp_path):
    values = {f"{i:040x}".encode(): picture(i, ["WEBP", "JPEG"][i % 2]) for i in range(20)}
    source = LsunSource(str(write(tmp_path / "x_val_lmdb", values)))
    items = list(source)
    alone = [np.asarray(source.load(item)) for item in items]
    assert all(np.array_equal(a, Image.open(io.BytesIO(values[item.key.encode()]))) for a, item in zip(alone, items, strict=True))
    with multiprocessing.get_context("fork").Pool(2) as pool:  # they inherit what was opened here
        assert all(map(np.array_equal, alone, pool.map(source.load, items, chunksize=1)))


def test_listing_reads_the_keys_pages_alone(tmp_path, monkeypatch):
    import os

    folder = write(tmp_path / "x_train_lmdb", {f"{i:040x}".encode(): bytes(20_000) for i in range(500)})
    read, pread = [], os.pread

    def counted(*arguments):
        read.append(pread(*arguments))
        return read[-1]

    monkeypatch.setattr(os, "pread", counted)
    assert sum(item.size for item in LsunSource(str(folder))) == 500 * 20_000
    assert sum(map(len, read)) < 100_000  # of 12 MB


def test_a_value_that_is_no_picture_is_named_with_its_key(tmp_path, one_line):
    source = LsunSource(str(write(tmp_path / "x_val_lmdb", {b"abc": b"no picture", b"abd": b""})))
    for item, found in zip(source, ["no picture", "0 bytes"], strict=True):
        with pytest.raises(DataError) as caught:
            source.load(item)
        assert f"data.mdb: {item.key}: " in one_line(caught.value) and found in str(caught.value)


def test_damage_is_told(tmp_path, one_line):
    folder = write(tmp_path / "x_val_lmdb", {f"{i:040x}".encode(): picture(i, "JPEG") for i in range(300)})
    file = folder / "data.mdb"
    data = file.read_bytes()
    for cut in (len(data) - 4096, 5000, 4096 + 10, 50, 0):
        file.write_bytes(data[:cut])
        expect(folder, one_line, "cut short" if cut > 4096 else "no lmdb file")
    heads = 2 * 4096
    file.write_bytes(data[:heads] + bytes(len(data) - heads))
    expect(folder, one_line, "damaged")
    file.write_bytes(b"<html>" * 1000)
    expect(folder, one_line, "no lmdb file")


def test_an_lmdb_of_another_kind_or_with_nothing_in_it(tmp_path, one_line):
    with lmdb.open(str(tmp_path / "named"), max_dbs=1) as env:  # a tree inside the tree
        env.open_db(b"inner")
    expect(tmp_path / "named", one_line, "wanted a plain value")
    expect(write(tmp_path / "none", {}), one_line, "no entries")


def test_of_several_lmdbs_one_is_wanted_and_all_are_named(tmp_path, one_line):
    for name in ("bedroom_train_lmdb", "church_outdoor_train_lmdb"):
        write(tmp_path / name, {b"k": picture(0, "JPEG")})
    (tmp_path / "tower_train_lmdb").mkdir()  # without data.mdb
    expect(tmp_path, one_line, "holds bedroom_train_lmdb, church_outdoor_train_lmdb; wanted one")
    expect(tmp_path / "tower_train_lmdb", one_line, "no data.mdb in it")
    expect(tmp_path / "gone", one_line, "no such folder")


def test_pages_that_lead_to_themselves_are_damage(tmp_path, one_line):
    size, depth = 4096, 60_000
    pages = bytearray(3 * size)
    for at in (0, size):
        struct.pack_into("<QHHHH", pages, at, at // size, 0, 8, 0, 0)
        META.pack_into(pages, at, MAGIC, VERSION, size, 0, depth, 1, 2, 2, at)
    struct.pack_into("<QHHHH", pages, 2 * size, 2, 0, BRANCH, PAGE.size + 2, 0)
    struct.pack_into("<H", pages, 2 * size + PAGE.size, 100)
    NODE.pack_into(pages, 2 * size + 100, 2, 0, 0, 0)
    (tmp_path / "data.mdb").write_bytes(pages)
    with pytest.raises(DataError) as caught:
        list(LsunSource(str(tmp_path)))
    assert str(tmp_path / "data.mdb") in one_line(caught.value) and "damaged" in str(caught.value)
