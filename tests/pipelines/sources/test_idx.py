"""IDX files: MNIST as torchvision reads it, and what is told of files that are not as their header says."""

import gzip
from pathlib import Path
import struct

import numpy as np
import pytest

from pipelines import DataError
from pipelines.sources.idx import IdxSource

SHARED = Path(__file__).parents[4] / "shared" / "data"


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five train pictures, packed, with labels; three test pictures, unpacked, without."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 28, 28), dtype=np.uint8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[:5])))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array([3, 1, 4, 1, 5], np.uint8))))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images[5:]))
    np.save(tmp_path / "images.npy", images)
    return tmp_path


def test_both_sets_are_read_and_the_key_tells_split_number_and_label(folder):
    source = IdxSource(str(folder))
    items = list(source)
    keys = {"train/00000_3", "train/00001_1", "train/00002_4", "train/00003_1", "train/00004_5", "test/00000", "test/00001", "test/00002"}
    assert {item.key for item in items} == keys and len(items) == 8
    assert (source.channels, source.resolution, source.upscales) == (1, 32, True)
    read = {item.key: np.asarray(source.load(item)) for item in items}
    images = np.load(folder / "images.npy")
    assert np.array_equal(read["train/00004_5"], images[4]) and np.array_equal(read["test/00002"], images[7])


def test_one_file_and_the_unpacked_of_two_are_read(folder):
    assert [item.key for item in IdxSource(str(folder / "t10k-images-idx3-ubyte"))] == ["test/00000", "test/00001", "test/00002"]
    (folder / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((5, 28, 28), np.uint8)))
    source = IdxSource(str(folder))
    assert all(not np.asarray(source.load(item)).any() for item in source if item.key.startswith("train/"))


@pytest.mark.parametrize("shape, resolution, upscales", [((2, 32, 32), 32, False), ((2, 33, 20), 64, True), ((2, 2, 2), 4, True)])
def test_the_resolution_is_the_next_power_of_two(tmp_path, shape, resolution, upscales):
    (tmp_path / "x").write_bytes(idx(np.zeros(shape, np.uint8)))
    source = IdxSource(str(tmp_path / "x"))
    assert (source.resolution, source.upscales) == (resolution, upscales)


@pytest.mark.parametrize(
    "data, found",
    [
        (b"", "starts with nothing"),
        (b"\x89PNG and more of it", "starts with 89 50 4e 47; wanted 00 00 08 03"),
        (idx(np.zeros((2, 4), np.uint8)) + bytes(8), "starts with 00 00 08 02"),
        (idx(np.zeros((2, 4, 4), np.uint8))[:-1], "2x4x4 pictures by its header and 31 bytes after it; wanted 32"),
        (idx(np.zeros((2, 4, 4), np.uint8)) + b"x", ".* 33 bytes after it; wanted 32"),
        (idx(np.zeros((0, 28, 28), np.uint8)), ".*wanted at least one"),
        (bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**32 - 1, 2**31, 2), ".*and 0 bytes after it"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_not_as_its_header_says_is_told(tmp_path, data, found, packed):
    file = tmp_path / f"train-images-idx3-ubyte{'.gz' if packed else ''}"
    file.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DataError, match=f"{file}: {found}"):
        IdxSource(str(tmp_path))


@pytest.mark.parametrize("spoil", [lambda data: data[:-20], lambda data: b"x" + data, lambda data: data[:40] + bytes(9) + data[49:]])
def test_a_damaged_gzip_is_told(folder, spoil, one_line):
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(DataError) as caught:
        IdxSource(str(folder))
    assert f"{file}: cannot be read (" in one_line(caught.value)


def test_labels_of_another_number_are_told(folder, one_line):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(4, np.uint8))))
    with pytest.raises(DataError) as caught:
        IdxSource(str(folder))
    assert "train-labels-idx1-ubyte.gz: 4 labels; wanted 5" in one_line(caught.value)


def test_a_folder_without_such_files_is_told(tmp_path):
    with pytest.raises(DataError, match="no train-images-idx3-ubyte or t10k-images-idx3-ubyte in it"):
        IdxSource(str(tmp_path))
    with pytest.raises(DataError, match="not there"):
        IdxSource(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_real_sets_are_what_torchvision_reads(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not here: it lies in ../shared/data/{name}")
    mnist = pytest.importorskip("pipelines.torchvision_cpu").torchvision.datasets.mnist
    source = IdxSource(str(SHARED / name))
    items = {item.key: item for item in source}
    assert len(items) == 70_000
    for split, prefix in (("train", "train"), ("test", "t10k")):
        raw = {kind: gzip.decompress((SHARED / name / f"{prefix}-{kind}-ubyte.gz").read_bytes()) for kind in ("images-idx3", "labels-idx1")}
        images, labels = (_by_torchvision(mnist, data) for data in raw.values())
        for i in (0, 1, 4321, len(images) - 1):
            assert np.array_equal(np.asarray(source.load(items[f"{split}/{i:05d}_{labels[i]}"])), images[i])


def _by_torchvision(mnist, data: bytes) -> np.ndarray:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return mnist.read_sn3_pascalvincent_tensor(file.name).numpy()
