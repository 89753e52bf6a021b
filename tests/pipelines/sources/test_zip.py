"""A zip of pictures: each member as Python's own reader gives it, and damage told with the member's name."""

import io
import multiprocessing
from pathlib import Path
import zipfile

import numpy as np
from PIL import Image
import pytest

from pipelines import DataError
from pipelines.sources.zip import ZipSource


def png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def archive(tmp_path) -> Path:
    """Two stored and two deflated pictures, one in a zip64 member, among what is left out."""
    path = tmp_path / "a b.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.mkdir("x")
        for i, name in enumerate(["top.PNG", "x/1.5 m.png", "./x/y/büro.png"]):
            out.writestr(name, png(i), zipfile.ZIP_DEFLATED if i else zipfile.ZIP_STORED)
        with out.open("z64.png", "w", force_zip64=True) as member:
            member.write(png(3))
        for name in ("__MACOSX/x/._1.png", "__MACOSX/1.png", "x/.hidden.png", ".git/x.png", "notes.txt"):
            out.writestr(name, b"a text" if name == "notes.txt" else png(4))
    return path


def expect(path: Path, one_line, *found: str) -> None:
    source = ZipSource(str(path))
    with pytest.raises(DataError) as caught:
        for item in source:
            source.load(item)
    assert all(text in one_line(caught.value) for text in (str(path), *found)), caught.value


def test_members_are_those_of_pythons_reader(archive):
    source = ZipSource(str(archive))
    items = {item.name.removeprefix(f"{archive}: "): item for item in source}
    assert sorted(item.key for item in items.values()) == ["top", "x/1_5 m", "x/y/büro", "z64"]
    with zipfile.ZipFile(archive) as reader:
        for name, item in items.items():
            assert np.array_equal(source.load(item), Image.open(io.BytesIO(reader.read(name))))
            assert item.size == reader.getinfo(name).compress_size
    assert list(archive.parent.iterdir()) == [archive]  # nothing was extracted
    assert source.left_out == {"hidden": 4, ".txt": 1}


def test_more_than_65535_members_and_bytes_before_the_zip(tmp_path):
    plain = tmp_path / "plain.zip"
    with zipfile.ZipFile(plain, "w") as out:  # so many need zip64
        for i in range(65_600):
            out.writestr(f"{i:05d}.png", png(i) if i == 65_599 else b"")
    path = tmp_path / "program.zip"
    path.write_bytes(b"#!/bin/sh\n" + plain.read_bytes())  # as one that extracts itself
    source = ZipSource(str(path))
    *_, last = source
    assert last.key == "65599" and source.load(last).size == (7, 9)


def test_workers_read_at_once_what_one_reader_reads(archive):
    source = ZipSource(str(archive))
    items = list(source) * 10
    alone = [np.asarray(source.load(item)) for item in items]
    with multiprocessing.get_context("fork").Pool(2) as pool:  # they inherit what was opened here
        assert all(map(np.array_equal, alone, pool.map(source.load, items, chunksize=1)))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_changed_byte_is_told(tmp_path, one_line, method):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as out:
        out.writestr("x/1.png", png(0))
        start = out.getinfo("x/1.png").header_offset + 30 + len("x/1.png")
    data = bytearray(path.read_bytes())
    data[start + 90] ^= 4
    path.write_bytes(data)
    expect(path, one_line, ": x/1.png: damaged (")


def test_an_encrypted_member_is_told(tmp_path, one_line):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("x/1.png", png(0))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the directory's flag
    path.write_bytes(data)
    expect(path, one_line, ": x/1.png: encrypted")


def test_a_method_that_is_not_read_is_told(tmp_path, one_line):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as out:
        out.writestr("1.png", png(0))
    expect(tmp_path / "a.zip", one_line, ": 1.png: compressed by bzip2; wanted it stored or deflated")


def test_more_bytes_than_stated_are_not_unpacked(tmp_path, one_line):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("1.png", bytes(100_000))
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = (50).to_bytes(4, "little")
    path.write_bytes(data)
    expect(path, one_line, ": 1.png: damaged (51 bytes")


def test_a_zip_cut_short_no_zip_and_one_without_pictures(archive, tmp_path, one_line):
    data = archive.read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    expect(tmp_path / "cut.zip", one_line, "cut short")
    (tmp_path / "no.zip").write_text("<html>404</html>")
    expect(tmp_path / "no.zip", one_line, "no zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as out:
        out.writestr("notes.txt", "")
    expect(tmp_path / "empty.zip", one_line, "no picture in it")
    with pytest.raises(DataError, match=r"path=gone\.zip: no such file"):
        ZipSource("gone.zip")


def test_a_zip_that_was_replaced_since_is_told(archive, one_line):
    source = ZipSource(str(archive))
    items = list(source)
    archive.write_bytes(bytes(10_000))
    with pytest.raises(DataError) as caught:
        source.load(items[0])
    assert "has changed since it was listed" in one_line(caught.value)
