"""Parquet files: the column is found, rows come in order without holding the file, and what cannot be read is told."""

import io
import multiprocessing
import os
from pathlib import Path

import numpy as np
from PIL import Image
import pytest

from pipelines import DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'hires[sources]'")
pq = pytest.importorskip("pyarrow.parquet")
ParquetSource = pytest.importorskip("pipelines.sources.parquet").ParquetSource

HUB = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as a hub's image feature is stored


def encoded(i: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (i % 256, i // 256, 7)).save(out, "png")
    return out.getvalue()


def number(image: Image.Image) -> int:
    red, green, _ = image.getpixel((3, 3))
    return red + 256 * green


def write(file: Path, count: int, kind: pa.DataType = HUB, name: str = "image", first: int = 0, **settings) -> Path:
    pictures = [encoded(first + i) for i in range(count)]
    values = [{"bytes": data, "path": "same.png"} for data in pictures] if pa.types.is_struct(kind) else pictures
    table = pa.table({"label": list(range(count)), name: pa.array(values, kind), "caption": ["text"] * count})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, **settings)
    return file


@pytest.mark.parametrize("kind", [HUB, pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.large_binary())])], ids=str)
def test_a_column_is_found_by_its_type(tmp_path, kind):
    source = ParquetSource(str(write(tmp_path / "x.parquet", 30, kind, "whatever", row_group_size=7)))
    items = list(source)
    assert [item.key for item in items] == [f"x/{i:08d}" for i in range(30)]
    assert [number(source.load(item)) for item in items] == list(range(30))


def test_of_two_columns_the_one_named_image_is_taken(tmp_path):
    table = pa.table({"Image": [encoded(5)], "mask": [b"no picture"]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = ParquetSource(str(tmp_path / "x.parquet"))
    assert [number(source.load(item)) for item in source] == [5]


@pytest.mark.parametrize(
    "table, found",
    [
        ({"label": [1], "caption": ["a"]}, "0 columns could hold pictures (label: int64, caption: string)"),
        ({"a": [b"x"], "b": [b"y"]}, "2 columns could hold pictures (a: binary, b: binary)"),
        ({"image": [b"x"], "img": [b"y"]}, "2 columns could hold pictures (image: binary, img: binary)"),
        ({"image": [{"path": "x.png"}]}, "0 columns could hold pictures (image: struct<path: string>)"),
    ],
)
def test_no_column_or_several_are_told_with_all_there_are(tmp_path, table, found, one_line):
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    with pytest.raises(DataError) as caught:
        list(ParquetSource(str(tmp_path / "x.parquet")))
    assert f"{tmp_path / 'x.parquet'}: {found}" in one_line(caught.value)


def test_a_folder_is_read_in_order_at_any_depth(tmp_path):
    for n, name in enumerate(["train-00001-of-2", "train-00000-of-2", "test/a.b", ".cache/x"]):
        write(tmp_path / f"{name}.parquet", 3, first=10 * n)
    source = ParquetSource(str(tmp_path))
    items = list(source)
    assert [item.key for item in items][::3] == ["test/a_b/00000000", "train-00000-of-2/00000000", "train-00001-of-2/00000000"]
    assert [number(source.load(item)) for item in items] == [20, 21, 22, 10, 11, 12, 0, 1, 2]


def test_rows_are_read_in_any_order_and_by_forked_workers(tmp_path):
    source = ParquetSource(str(write(tmp_path / "x.parquet", 300, row_group_size=90)))
    items = list(source)
    order = np.random.default_rng(0).permutation(300).tolist()
    assert [number(source.load(items[i])) for i in order] == order
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert [number(image) for image in pool.map(source.load, items, chunksize=50)] == list(range(300))


def test_memory_follows_the_pages_and_not_the_row_group(tmp_path):
    rows, size = 1200, 50_000  # 60 MB in one row group, of pages of 16 rows
    file = tmp_path / "big.parquet"
    table = pa.table({"image": [encoded(i) + os.urandom(size) for i in range(rows)]})
    pq.write_table(table, file, row_group_size=rows, write_batch_size=16, compression="none", use_dictionary=False)
    del table
    source, before, most = ParquetSource(str(file)), pa.total_allocated_bytes(), 0
    for i, item in enumerate(source):
        assert number(source.load(item)) == i
        most = max(most, pa.total_allocated_bytes() - before)
    assert 16 * size <= most < 8_000_000


def test_listing_reads_no_picture(tmp_path):
    file = write(tmp_path / "x.parquet", 50, compression="none", use_dictionary=False)
    whole = list(ParquetSource(str(file)))
    data, chunk = bytearray(file.read_bytes()), pq.ParquetFile(file).metadata.row_group(0).column(1)
    start = chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    file.write_bytes(data)
    assert [item.key for item in ParquetSource(str(file))] == [item.key for item in whole]
    with pytest.raises(DataError, match=rf"{file}: row 0: cannot be read"):
        ParquetSource(str(file)).load(whole[0])


def test_an_items_size_is_the_mean_of_its_row_group(tmp_path):
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [os.urandom(n) for n in (1000, 3000, 8000, 8000)]}), file, row_group_size=2, write_statistics=False)
    assert [item.size // 1000 for item in ParquetSource(str(file))] == [2, 2, 8, 8]


def test_a_row_after_a_bad_one_is_still_read(tmp_path, one_line):
    values = [{"bytes": encoded(1), "path": None}, {"bytes": None, "path": "1.png"}, None, {"bytes": b"", "path": None}]
    pq.write_table(pa.table({"image": pa.array([*values, {"bytes": encoded(4), "path": None}], HUB)}), tmp_path / "x.parquet")
    source, found = ParquetSource(str(tmp_path / "x.parquet")), []
    for item in source:
        try:
            found.append(number(source.load(item)))
        except DataError as error:
            found.append(one_line(error).removeprefix(f"{tmp_path / 'x.parquet'}: "))
    assert found[0] == 1 and found[4] == 4
    assert found[1] == "row 1: null; wanted an encoded picture in the file itself" and found[2].startswith("row 2: null")
    assert found[3].startswith("row 3: 0 bytes")


def test_page_checksums_are_checked_where_there_are_any(tmp_path):
    file = write(tmp_path / "x.parquet", 20, compression="none", use_dictionary=False, write_page_checksum=True)
    data = file.read_bytes()
    at = data.index(encoded(13)) + 20
    file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    source = ParquetSource(str(file))
    items = list(source)
    for row in (13, 17, 13):  # those after it in the page are as lost, for the same reason
        with pytest.raises(DataError, match=rf"row {row}: cannot be read .*CRC"):
            source.load(items[row])


@pytest.mark.parametrize("spoil", [lambda data: data[:-10], lambda data: b"", lambda data: b"text, no Parquet"])
def test_a_file_cut_short_is_told(tmp_path, spoil, one_line):
    file = write(tmp_path / "x.parquet", 5)
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(DataError) as caught:
        list(ParquetSource(str(file)))
    assert f"{file}: cannot be read as Parquet" in one_line(caught.value)


def test_nothing_there_is_told(tmp_path):
    for path, found in [("", "not there"), (str(tmp_path / "no"), "not there"), (str(tmp_path), "no file ends in .parquet")]:
        with pytest.raises(DataError, match=found):
            ParquetSource(path)
    with pytest.raises(DataError, match="no rows"):
        list(ParquetSource(str(write(tmp_path / "x.parquet", 0))))


@pytest.mark.parametrize("old", [b"image", b"caption"])
def test_a_name_that_is_no_text_is_told(tmp_path, old):
    file = write(tmp_path / "x.parquet", 3, store_schema=False)
    file.write_bytes(file.read_bytes().replace(old, b"\xff" * len(old)))
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read as Parquet \(a name in it is not UTF-8"):
        list(ParquetSource(str(file)))
