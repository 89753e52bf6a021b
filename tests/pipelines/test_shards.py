"""A prepared data set opens whole or says what is wrong."""

from concurrent.futures import ThreadPoolExecutor
import json
import os
from pathlib import Path
import shutil

import numpy as np
import pytest

from pipelines import DataError, PrepareConfig, Shards, prepare


@pytest.fixture
def copy(prepared, tmp_path):
    """A data set to damage."""
    return shutil.copytree(Path(prepared.root), tmp_path / "copy")


def test_counts_levels_and_sizes_are_told(prepared):
    assert prepared.levels == [4, 8, 16, 32, 64, 128] and prepared.channels == 3
    assert prepared.count("train") == 25 and prepared.shard_sizes("train") == [7, 7, 7, 4] and prepared.shard_sizes("holdout") == [5]


def test_read_gives_the_bytes_in_the_order_asked_for(prepared):
    for level, magic in ((64, b"\x89PNG"), (128, b"\xff\xd8\xff")):
        every = prepared.read(level, "train", range(25))
        assert all(data.startswith(magic) for data in every) and len(set(every)) == 25
        assert prepared.read(level, "train", np.array([24, 0, 7, 7])) == [every[i] for i in (24, 0, 7, 7)]
    assert prepared.read(64, "train", []) == []


def test_a_forked_process_reads_the_same(prepared):
    expected = prepared.read(64, "train", range(7))  # the file is open now, and shared by the fork
    pid = os.fork()
    if pid == 0:
        os._exit(0 if all(prepared.read(64, "train", range(7)) == expected for _ in range(1000)) else 1)
    assert all(prepared.read(64, "train", [6, 5])[::-1] == expected[5:] for _ in range(3000))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_threads_read_while_others_drop_files(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.files.LocalFiles.open_at_once", 1)
    prepare(PrepareConfig(path=str(photos), out=str(tmp_path / "set"), resolution=4, images_per_shard=1, workers=1))
    shards = Shards.open(tmp_path / "set")
    expected = shards.read(4, "train", range(30))
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(shards.read, 4, "train", np.roll(np.arange(30), shift)) for shift in range(200)]
    assert all(job.result() == [expected[(i - shift) % 30] for i in range(30)] for shift, job in enumerate(jobs))


def test_few_files_are_kept_open(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.files.LocalFiles.open_at_once", 4)
    prepare(PrepareConfig(path=str(photos), out=str(tmp_path / "set"), resolution=4, images_per_shard=1, workers=1))
    shards = Shards.open(tmp_path / "set")
    before = len(os.listdir("/proc/self/fd"))
    shards.read(4, "train", range(30))
    assert len(os.listdir("/proc/self/fd")) - before <= 5  # four shards and the index


@pytest.mark.parametrize("index", [-1, 25])
def test_an_index_out_of_range_is_refused(prepared, index):
    with pytest.raises(IndexError):
        prepared.read(64, "train", [0, index])


def test_a_missing_level_is_named_beside_those_that_exist(prepared, one_line):
    with pytest.raises(DataError) as caught:
        prepared.read(256, "train", [0])
    assert "no level 256, it has 4, 8, 16, 32, 64, 128" in one_line(caught.value)


def test_a_missing_folder_suggests_prepare(tmp_path, one_line):
    with pytest.raises(DataError) as caught:
        Shards.open(tmp_path / "nowhere")
    assert "nowhere: no such folder" in one_line(caught.value) and "hires prepare" in str(caught.value)


def test_a_folder_without_manifest_is_not_finished(copy, one_line):
    (copy / "manifest.json").unlink()
    with pytest.raises(DataError) as caught:
        Shards.open(copy)
    assert "not finished" in one_line(caught.value) and "run hires prepare again" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}', '{"format": 2}', '{"format": 2, "shards": []}'])
def test_a_manifest_that_is_not_ours_is_named(copy, text, one_line):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(DataError) as caught:
        Shards.open(copy)
    assert "manifest.json" in one_line(caught.value)


def test_a_lost_or_shortened_shard_is_named(copy, one_line):
    shard = copy / "64" / "shard-00001.tar"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(DataError) as caught:
        Shards.open(copy)
    assert f"{shard}: {size - 512} bytes; wanted {size}" in one_line(caught.value)
    shard.unlink()
    with pytest.raises(DataError) as caught:
        Shards.open(copy)
    assert f"{shard}: missing" in one_line(caught.value)


def test_a_shard_cut_short_while_in_use_is_named(copy, one_line):
    shards = Shards.open(copy)
    shard = copy / "64" / "shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(DataError) as caught:
        shards.read(64, "train", [6])
    assert f"{shard}: {shards.keys('train')[6]}: the shard was cut short to 2000 bytes" in one_line(caught.value)


def test_an_index_cut_short_is_named(copy, one_line):
    index = copy / "index" / "train-64.entries"
    index.write_bytes(index.read_bytes()[:160])
    with pytest.raises(DataError) as caught:
        Shards.open(copy)
    assert f"{index}: 160 bytes; wanted 400" in one_line(caught.value)


def test_the_manifest_says_how_it_was_made_and_holds_the_hashes(prepared):
    import hashlib

    manifest = json.loads((Path(prepared.root) / "manifest.json").read_text())
    assert manifest["filter"] == "lanczos" and manifest["crop"] == "centre square"
    assert manifest["codecs"]["64"] == "png" and manifest["codecs"]["128"] == "jpeg:97:444"
    assert manifest["settings"]["split"]["holdout"] == 5 and manifest["counts"] == {"train": 25, "holdout": 5}
    for shard in manifest["shards"]["train"]:
        for level, found in shard["levels"].items():
            data = (Path(prepared.root) / level / f"{shard['name']}.tar").read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (found["bytes"], found["sha256"])


def test_a_flipped_bit_is_found_when_the_picture_is_read_and_named(copy, one_line):
    """Most flipped bits in a JPEG decode all the same: without the CRC they would be trained on."""
    shards = Shards.open(copy)
    shard, key = copy / "128" / "shard-00000.tar", shards.keys("train")[3]
    data = bytearray(shard.read_bytes())
    data[int(shards.entries(128, "train")["offset"][3]) + 2000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError) as caught:
        shards.read(128, "train", [2, 3])
    assert one_line(caught.value).startswith(f"{shard}: {key}: ") and "CRC-32" in str(caught.value)
    assert len(shards.read(128, "train", [0, 1, 2, 4, 5, 6])) == 6


def test_an_index_of_another_set_is_refused(copy, one_line):
    text = (copy / "index.json").read_text()
    (copy / "index.json").write_text(text.replace('"format": 2', '"format": 3'))
    with pytest.raises(DataError) as caught:
        Shards.open(copy)
    assert f"{copy / 'index.json'}: not the one that was written with manifest.json" in one_line(caught.value)


def test_the_index_says_where_each_picture_lies_in_numpys_terms(prepared):
    """Whoever reads the shards without this project: index.json names the files and the type of their rows."""
    index = json.loads((Path(prepared.root) / "index.json").read_text())
    rows = np.fromfile(Path(prepared.root) / "index" / "train-128.entries", np.dtype([tuple(column) for column in index["entry"]]))
    whole = (Path(prepared.root) / "128" / "shard-00000.tar").read_bytes()
    assert [whole[row["offset"] :][: row["size"]] for row in rows[:7]] == prepared.read(128, "train", range(7))
    assert set(index["files"]) == {f"index/{path.name}" for path in (Path(prepared.root) / "index").iterdir()}
