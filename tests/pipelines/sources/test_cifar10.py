"""CIFAR-10's batches: the binary version, the python version without unpickling, and what is refused."""

from pathlib import Path
import pickle
import struct

import numpy as np
import pytest

from pipelines import DataError
from pipelines.sources import cifar10
from pipelines.sources.cifar10 import BATCHES, Cifar10Source

SHARED = Path(__file__).parents[4] / "shared" / "data" / "cifar10" / "train_first4000_lossless.npz"
COUNT = 50  # pictures in a batch of the tests


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """uint8 (6 * COUNT, 32, 32, 3), real ones where they are to be had."""
    if SHARED.is_file():
        with np.load(SHARED) as real:
            name = next(name for name in real.files if real[name].ndim == 4)
            return real[name][: 6 * COUNT]
    return np.random.default_rng(0).integers(0, 256, (6 * COUNT, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 10, 6 * COUNT)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "PER_BATCH", COUNT)


def planes(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N, 32, 32, 3) -> (N, 3072), as the published files have it: red, green, blue."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1))


def as_binary(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    return np.concatenate([labels[:, None].astype(np.uint8), planes(pixels)], 1).tobytes()


def as_python2(pixels: np.ndarray, labels: np.ndarray, fortran: bool = False) -> bytes:
    """What Python 2's cPickle wrote, protocol 2, opcode by opcode."""

    def short(text: str) -> bytes:
        return b"U" + bytes([len(text)]) + text.encode()

    rows = planes(pixels)
    data = rows.tobytes(order="F" if fortran else "C")
    shape = b"M" + struct.pack("<H", len(rows)) + b"M" + struct.pack("<H", rows.shape[1]) + b"\x86"
    return b"".join(
        [
            b"\x80\x02}q\x01(",
            short("batch_label") + b"q\x02" + short("training batch 1 of 5") + b"q\x03",
            short("labels") + b"q\x04]q\x05(" + b"".join(b"K" + bytes([label]) for label in labels[:20]) + b"e(",
            b"".join(b"K" + bytes([label]) for label in labels[20:]) + b"e",
            short("data") + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85" + short("b"),
            b"\x87Rq\t(K\x01" + shape + b"cnumpy\ndtype\nq\n" + short("u1") + b"K\x00K\x01\x87Rq\x0b(K\x03" + short("|"),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            (b"\x88" if fortran else b"\x89") + b"T" + struct.pack("<i", len(data)) + data + b"tb",
            short("filenames") + b"r\x0c\x00\x00\x00]q\r(" + b"".join(short(f"x_{i}.png") for i in range(len(rows))) + b"eu.",
        ]
    )


def as_today(pixels: np.ndarray, labels: np.ndarray, protocol: int = 2) -> bytes:
    return pickle.dumps({b"batch_label": b"x", "labels": labels.tolist(), "data": planes(pixels), "filenames": ["x.png"]}, protocol)


def write(folder: Path, encode, pixels: np.ndarray, labels: np.ndarray, suffix: str = "") -> Path:
    folder.mkdir(parents=True)
    for n, (_, name) in enumerate(BATCHES):
        part = slice(n * COUNT, (n + 1) * COUNT)
        (folder / (name + suffix)).write_bytes(encode(pixels[part], labels[part]))
    return folder


def test_the_hand_made_pickle_is_one(pixels, labels):
    read = pickle.loads(as_python2(pixels[:COUNT], labels[:COUNT]), encoding="latin1")  # made above: the reference, not the reader
    assert np.array_equal(read["data"], planes(pixels[:COUNT])) and read["labels"] == labels[:COUNT].tolist()


@pytest.mark.parametrize(
    "encode, inner, suffix",
    [
        (as_binary, "cifar-10-batches-bin", ".bin"),
        (as_python2, "cifar-10-batches-py", ""),
        (lambda pixels, labels: as_python2(pixels, labels, fortran=True), "x", ""),
        (as_today, "y", ""),
        (lambda pixels, labels: as_today(pixels, labels, 3), "z", ""),
    ],
    ids=["binary", "python 2", "python 2, column-major", "protocol 2 of today", "protocol 3"],
)
def test_every_picture_and_label_is_read(tmp_path, pixels, labels, encode, inner, suffix):
    folder = write(tmp_path / inner, encode, pixels, labels, suffix)
    source = Cifar10Source(str(tmp_path if inner.startswith("cifar") else folder))
    items = list(source)
    train, test = range(5 * COUNT), range(COUNT)
    assert [item.key for item in items] == [
        *(f"train/{i:05d}_{labels[i]}" for i in train),
        *(f"test/{i:05d}_{labels[5 * COUNT + i]}" for i in test),
    ]
    assert np.array_equal([np.asarray(source.load(item)) for item in items], pixels)
    assert (source.channels, source.resolution) == (3, 32)


def test_the_binary_version_is_taken_where_both_are(tmp_path, pixels, labels):
    write(tmp_path / "cifar-10-batches-bin", as_binary, pixels, labels, ".bin")
    write(tmp_path / "cifar-10-batches-py", lambda *_: b"never read", pixels, labels)
    assert len(list(Cifar10Source(str(tmp_path)))) == 6 * COUNT


class Evil:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path, pixels, labels, protocol, one_line):
    folder = write(tmp_path / "set", as_python2, pixels, labels)
    target = tmp_path / "touched"
    evil = pickle.dumps({"data": Evil(target), "labels": labels[:COUNT].tolist()}, protocol)
    (folder / "data_batch_2").write_bytes(evil)
    with pytest.raises(DataError) as caught:
        Cifar10Source(str(folder))
    assert not target.exists() and f"{folder / 'data_batch_2'}: a pickle that asks for " in one_line(caught.value)
    pickle.loads(evil)  # made above: it does run where pickles are loaded
    assert target.exists()


def today_with(**changes) -> bytes:
    return pickle.dumps({"data": np.zeros((COUNT, 3072), np.uint8), "labels": [0] * COUNT} | changes, 2)


@pytest.mark.parametrize(
    "data, found",
    [
        (b"", "0 bytes that are no such pickle"),
        (today_with()[:-1000], "are no such pickle"),
        (b"\x80\x02.", "are no such pickle"),
        (b"\x80\x02N.", "no data and labels"),
        (b"\x80\x02K\x01K\x02e.", "are no such pickle"),
        (b"\x80\x02]]h\x05.", "are no such pickle"),
        (pickle.dumps({"labels": [1]}, 2), "no data and labels"),
        (pickle.dumps({"labels": [1]}, 4), "a pickle of protocol 4; wanted 2 or 3"),
        (today_with(data=np.zeros((COUNT, 1024), np.uint8)), f"data of {COUNT}x1024"),
        (today_with(data=np.zeros((COUNT, 3072), np.int8)), "no plain array of uint8"),
        (today_with(data=[0, 1, 2]), "no plain array of uint8"),
        (today_with(labels=[0] * (COUNT - 1)), f"{COUNT - 1} labels; wanted {COUNT}"),
        (today_with(labels=[0] * (COUNT - 1) + [10]), "a label is 10; wanted integers from 0 to 9"),
        (today_with(labels=[0] * (COUNT - 1) + [True]), "a label is True"),
        (today_with(labels=7), "no list of labels"),
    ],
)
def test_a_batch_that_is_not_as_published_is_told(tmp_path, pixels, labels, data, found):
    folder = write(tmp_path / "set", as_python2, pixels, labels)
    (folder / "test_batch").write_bytes(data)
    with pytest.raises(DataError, match=f"test_batch: .*{found}"):
        Cifar10Source(str(folder))


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b"\x0a" + data[1:]])
def test_a_binary_batch_of_another_length_or_label_is_told(tmp_path, pixels, labels, spoil):
    folder = write(tmp_path / "set", as_binary, pixels, labels, ".bin")
    file = folder / "data_batch_4.bin"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(DataError, match=r"data_batch_4\.bin: (a label is 10|\d+ bytes; wanted 153650)"):
        Cifar10Source(str(folder))


def test_a_missing_batch_is_named(tmp_path, pixels, labels, one_line):
    folder = write(tmp_path / "set", as_binary, pixels, labels, ".bin")
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(DataError) as caught:
        Cifar10Source(str(folder))
    assert f"{folder / 'data_batch_3.bin'}: missing" in one_line(caught.value)
    with pytest.raises(DataError, match="data_batch_1: missing"):
        Cifar10Source(str(tmp_path / "nowhere"))
