"""Sources by name, and the kind that a path is taken for."""

from pathlib import Path

import numpy as np
import pytest

from pipelines import DataError
from pipelines.sources import KINDS, detect, open_source

SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.mark.parametrize(
    "files, path, kind",
    [
        (["x.zip"], "x.zip", "zip"),
        (["x.ZIP"], "x.ZIP", "zip"),
        (["a.tar"], "a.tar", "webdataset"),
        (["a.tar.gz"], "a.tar.gz", "webdataset"),  # which tells how to unpack it
        (["a-0.tar", "a-1.tar", "index.json", ".x.jpg"], ".", "webdataset"),
        ([], "a-{0..1}.tar", "webdataset"),
        (["data.mdb", "lock.mdb"], ".", "lsun"),
        (["x_train_lmdb/data.mdb", "y_val_lmdb/data.mdb"], ".", "lsun"),
        (["train-0.parquet", "README.md"], ".", "parquet"),
        (["x.parquet"], "x.parquet", "parquet"),
        (["data/train-0.parquet", "README.md"], ".", "parquet"),  # as hubs lay them out
        (["a-r02.tfrecords", "a-r03.tfrecords"], ".", "tfrecords"),
        (["a-r02.tfrecords"], "a-r02.tfrecords", "tfrecords"),
        (["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"], ".", "idx"),
        (["train-images-idx3-ubyte"], "train-images-idx3-ubyte", "idx"),
        (["data_batch_1.bin", "test_batch.bin"], ".", "cifar10"),
        (["cifar-10-batches-py/data_batch_1", "cifar-10-python.tar.gz"], ".", "cifar10"),
        (["cifar-10-batches-py/data_batch_1"], "cifar-10-batches-py", "cifar10"),
        (["a.jpg", "notes.txt", "all.zip"], ".", "folder"),
        (["train/a.jpg"], ".", "folder"),
        (["shards.tar/a.jpg"], ".", "folder"),  # a folder, whatever its name
        ([], "gone", "folder"),
    ],
)
def test_the_kind_is_seen_by_names(tmp_path, monkeypatch, files, path, kind):
    monkeypatch.chdir(tmp_path)
    for file in map(Path, files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert detect(path) == kind in KINDS


def test_a_folder_of_two_kinds_is_not_guessed(tmp_path, one_line):
    for name in ("a.jpg", "shard.tar"):
        (tmp_path / name).touch()
    with pytest.raises(DataError) as caught:
        detect(str(tmp_path))
    assert "a.jpg (source=folder) and shard.tar (source=webdataset); give source=" in one_line(caught.value)


@pytest.mark.parametrize("name", ["x.rar", "x.jpg"])
def test_a_file_of_no_known_kind_is_refused(tmp_path, one_line, name):
    (tmp_path / name).touch()
    with pytest.raises(DataError) as caught:
        detect(str(tmp_path / name))
    assert f"{name}: a file of no known kind" in one_line(caught.value)


def test_an_empty_path_is_refused_but_for_digits():
    with pytest.raises(DataError, match="path=: empty"):
        detect("")
    for kind in KINDS:
        if kind != "digits":
            with pytest.raises(DataError, match=f"path=: empty; source={kind}"):
                open_source(kind, "")
    assert next(iter(open_source("digits", ""))).key == "0000_0"


def test_an_unknown_source_is_refused_with_those_that_are_known(one_line):
    with pytest.raises(DataError) as caught:
        open_source("rar", "x.rar")
    assert "source=rar: unknown" in one_line(caught.value) and all(kind in str(caught.value) for kind in KINDS)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "digits"])
def test_a_path_that_is_not_there_is_named(kind, one_line):
    with pytest.raises(DataError) as caught:
        open_source(kind, "nowhere/at-all")
    assert "nowhere/at-all" in one_line(caught.value)


@pytest.mark.parametrize(
    "path, kind, count",
    [
        ("faces1024", "folder", 149),
        ("celebahq512.tar", "webdataset", 1200),
        ("lsun_tiny/bedroom_val_lmdb", "lsun", 13),
        ("lsun_tiny/church_outdoor_val_lmdb", "lsun", 15),
        ("mnist", "idx", 70_000),
    ],
)
def test_real_data_is_seen_for_what_it_is(path, kind, count):
    if not SHARED.is_dir():
        pytest.skip("the real data is not here: it lies in ../shared/data")
    assert detect(str(SHARED / path)) == kind
    assert sum(1 for _ in open_source(kind, str(SHARED / path))) == count


def test_digits_are_scikit_learns_scaled_to_bytes():
    from sklearn.datasets import load_digits

    source, images = open_source("digits", ""), load_digits().images
    items = list(source)
    assert len(items) == 1797 and items[0].key == "0000_0"
    assert np.abs(np.asarray(source.load(items[5])) - images[5] * 255 / 16).max() <= 0.5
