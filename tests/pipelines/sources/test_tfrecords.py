"""ProGAN's TFRecord files: what was written is read, at each level, and damage is told with file and record."""

import multiprocessing
import os
from pathlib import Path
import struct

import numpy as np
import pytest

from pipelines import DataError
from pipelines.sources.tfrecords import TFRecordsSource

pytest.importorskip("google_crc32c", reason="google-crc32c is not installed: pip install 'hires[sources]'")
pytest.importorskip("google.protobuf", reason="protobuf is not installed: pip install 'hires[sources]'")


def crc32c(data: bytes) -> int:
    """Bit by bit, from the polynomial: CRC-32C, reflected 0x82F63B78."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def varint(n: int) -> bytes:
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(pixels: np.ndarray, packed: bool = True) -> bytes:
    """A serialised tf.train.Example with shape and data of a uint8 (C, r, r)."""
    sizes = field(1, b"".join(map(varint, pixels.shape))) if packed else b"".join(b"\x08" + varint(n) for n in pixels.shape)
    shape = field(1, b"shape") + field(2, field(3, sizes))
    data = field(1, b"data") + field(2, field(1, field(1, pixels.tobytes())))
    return field(1, field(1, shape) + field(1, data))


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def pyramid(seed: int, top: int = 16, channels: int = 3) -> dict[int, np.ndarray]:
    """Resolution -> uint8 (C, r, r): unrelated noise on each level, so that one cannot be had from another."""
    rng = np.random.default_rng(seed)
    return {r: rng.integers(0, 256, (channels, r, r), dtype=np.uint8) for r in (4, 8, 16, 32) if r <= top}


def write(folder: Path, pictures: list[dict[int, np.ndarray]], name: str = "faces") -> Path:
    folder.mkdir(exist_ok=True)
    for r in pictures[0]:
        file = folder / f"{name}-r{r.bit_length() - 1:02d}.tfrecords"
        file.write_bytes(b"".join(record(example(levels[r], packed=i % 2 == 0)) for i, levels in enumerate(pictures)))
    return folder


@pytest.fixture(scope="module")
def pictures() -> list[dict[int, np.ndarray]]:
    return [pyramid(seed) for seed in range(5)]


@pytest.fixture
def folder(tmp_path: Path, pictures: list[dict[int, np.ndarray]]) -> Path:
    write(tmp_path / "set", pictures)
    (tmp_path / "set" / "faces-rxx.labels").write_bytes(b"\x93NUMPY")
    return tmp_path / "set"


def test_the_tests_own_checksum_is_crc32c():
    assert crc32c(b"123456789") == 0xE3069283  # the check value in the catalogue of CRCs


def test_a_folder_gives_the_stored_pyramid_from_the_top_down(folder, pictures):
    source = TFRecordsSource(str(folder))
    items = list(source)
    assert (source.resolution, source.channels, source.levels) == (16, 3, (16, 8, 4))
    assert [item.key for item in items] == [f"{i:08d}" for i in range(5)]
    for item, levels in zip(items, pictures, strict=True):
        stored = source.load_levels(item)
        assert [pixels.shape for pixels in stored] == [(16, 16, 3), (8, 8, 3), (4, 4, 3)]
        assert all(np.array_equal(pixels, levels[len(pixels)].transpose(1, 2, 0)) for pixels in stored)
        assert np.array_equal(np.asarray(source.load(item)), stored[0])


def test_one_file_is_the_top_alone(folder, pictures):
    source = TFRecordsSource(str(folder / "faces-r03.tfrecords"))
    (pixels,) = source.load_levels(list(source)[4])
    assert (source.resolution, source.levels) == (8, ())
    assert np.array_equal(pixels, pictures[4][8].transpose(1, 2, 0))


def test_grey_pictures_are_of_one_channel(tmp_path):
    levels = pyramid(0, channels=1)
    source = TFRecordsSource(str(write(tmp_path / "grey", [levels])))
    (item,) = source
    assert source.channels == 1 and source.load(item).mode == "L"
    assert np.array_equal(np.asarray(source.load(item)), levels[16][0])


def test_what_another_library_writes_is_read(tmp_path, pictures):
    writer = pytest.importorskip("tfrecord", reason="the package tfrecord writes the file that is read here").TFRecordWriter
    file = tmp_path / "x-r04.tfrecords"
    out = writer(str(file))
    for levels in pictures:
        out.write({"shape": (list(levels[16].shape), "int"), "data": (levels[16].tobytes(), "byte")})
    out.close()
    source = TFRecordsSource(str(file))
    read = [np.asarray(source.load(item)) for item in source]
    assert np.array_equal(read, [levels[16].transpose(1, 2, 0) for levels in pictures])


def test_listing_does_not_read_the_pictures(folder, monkeypatch):
    source, read, pread = TFRecordsSource(str(folder)), [], os.pread
    monkeypatch.setattr(os, "pread", lambda handle, count, offset: read.append(count) or pread(handle, count, offset))
    assert len(list(source)) == 5
    assert read == [12] * 15


def test_a_flipped_byte_spoils_its_record_alone(folder, one_line):
    file = folder / "faces-r04.tfrecords"
    items = list(TFRecordsSource(str(folder)))
    data = bytearray(file.read_bytes())
    data[items[3].place[0] + 400] ^= 1
    file.write_bytes(data)
    source = TFRecordsSource(str(folder))
    source.load_levels(items[2])
    with pytest.raises(DataError) as caught:
        source.load(items[3])
    assert one_line(caught.value) == f"{file}: record 3: damaged (CRC32C differs)"


def test_a_damaged_length_ends_the_listing(folder, one_line):
    file = folder / "faces-r03.tfrecords"
    data = bytearray(file.read_bytes())
    data[list(TFRecordsSource(str(folder)))[2].place[2]] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(TFRecordsSource(str(folder)))
    assert f"{file}: record 2: its length is damaged" in one_line(caught.value)


@pytest.mark.parametrize("left", [1, 11, 12, 300, -1])
def test_a_file_cut_short_is_told_while_listing(folder, left, one_line):
    file = folder / "faces-r04.tfrecords"
    start, whole = list(TFRecordsSource(str(folder)))[4].place[0], file.read_bytes()
    file.write_bytes(whole[: start + left] if left > 0 else whole[:left])
    with pytest.raises(DataError) as caught:
        list(TFRecordsSource(str(folder)))
    assert f"{file}: record 4 is cut short" in one_line(caught.value)


def test_an_empty_file_is_told(folder, one_line):
    (folder / "faces-r04.tfrecords").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        TFRecordsSource(str(folder))
    assert "record 0 is cut short: it starts at byte 0 and the file ends at byte 0" in one_line(caught.value)


def test_a_missing_level_is_named_and_missing_lowest_ones_are_not_missed(folder, one_line):
    (folder / "faces-r02.tfrecords").unlink()
    assert TFRecordsSource(str(folder)).levels == (16, 8)
    write(folder, [{32: pyramid(0, 32)[32]}])
    (folder / "faces-r04.tfrecords").unlink()
    with pytest.raises(DataError) as caught:
        TFRecordsSource(str(folder))
    assert f"{folder / 'faces-r04.tfrecords'}: missing" in one_line(caught.value)


def test_a_file_that_is_gone_since_it_was_listed_is_told(folder, one_line):
    source = TFRecordsSource(str(folder))
    item = next(iter(source))
    (folder / "faces-r03.tfrecords").unlink()
    with pytest.raises(DataError) as caught:
        source.load_levels(item)
    assert f"{folder / 'faces-r03.tfrecords'}: cannot be read (No such file" in one_line(caught.value)


def test_different_counts_are_both_told(folder, pictures, one_line):
    write(folder, [{8: levels[8]} for levels in pictures[:3]])
    with pytest.raises(DataError) as caught:
        list(TFRecordsSource(str(folder)))
    assert "3 records in faces-r03.tfrecords, 5 in faces-r0" in one_line(caught.value)


def test_two_sets_in_a_folder_and_none_are_told(folder, pictures, tmp_path):
    write(folder, pictures, "churches")
    with pytest.raises(DataError, match="holds churches and faces"):
        TFRecordsSource(str(folder))
    with pytest.raises(DataError, match=r"no file is named as NAME-r10\.tfrecords"):
        TFRecordsSource(str(tmp_path))
    with pytest.raises(DataError, match="not there"):
        TFRecordsSource(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "data, found",
    [
        (b"\xff\xff\xff", "3 bytes that are no tf.train.Example"),
        (b"", "features none"),
        (field(1, field(1, field(1, b"image/encoded"))), "features image/encoded"),
        (example(np.zeros((3, 16, 8), np.uint8)), r"shape \[3, 16, 8\]"),
        (example(np.zeros((3, 16, 16), np.uint16)), "and 1536 bytes"),
        (example(np.zeros((3, 8, 8), np.uint8)), r"\(8, 8, 3\); wanted \(16, 16, 3\)"),
    ],
)
def test_a_record_that_is_no_such_picture_is_told(tmp_path, pictures, data, found):
    file = tmp_path / "x-r04.tfrecords"
    file.write_bytes(record(example(pictures[0][16])) + record(data))
    source = TFRecordsSource(str(file))
    with pytest.raises(DataError, match=f"x-r04.tfrecords: record 1: .*{found}"):
        source.load(list(source)[1])


def test_forked_workers_read_alike(folder):
    source = TFRecordsSource(str(folder))
    items = list(source)
    here = [np.asarray(source.load(item)) for item in items]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        there = pool.map(source.load, items)
    assert np.array_equal(here, [np.asarray(image) for image in there])
