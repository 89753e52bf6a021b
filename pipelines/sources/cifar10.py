"""CIFAR-10's batches, in both published forms."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError
from .base import Item, Source
from .inert_pickle import Call, read_pickle

PER_BATCH = 10_000  # pictures in a file
VALUES = 3 * 32 * 32
BATCHES = [("train", f"data_batch_{i}") for i in range(1, 6)] + [("test", "test_batch")]


class Cifar10Source(Source):
    """CIFAR-10 as published: a folder with data_batch_1.bin ... test_batch.bin, or data_batch_1 ... test_batch (the python version).

    The python version's pickles are read as data, never loaded: protocols 2 and 3, a numpy array of uint8 under 'data' and a list of
    integers under 'labels'. Keys are 'train/00042_6' and 'test/00042_3', number and label. All is held in memory, 184 MB.
    """

    resolution = 32

    def __init__(self, path: str):
        """Raises DataError if a batch is missing or not as published."""
        root = Path(path)
        for inner in ("cifar-10-batches-bin", "cifar-10-batches-py"):
            if (root / inner).is_dir():
                root = root / inner
                break
        suffix = ".bin" if (root / f"{BATCHES[0][1]}.bin").is_file() else ""
        self.batches = []  # (split, file, number of its first picture, uint8 (N, 3, 32, 32), labels)
        first = {"train": 0, "test": 0}
        for split, name in BATCHES:
            file = root / (name + suffix)
            if not file.is_file():
                raise DataError(f"{file}: missing; wanted CIFAR-10's {len(BATCHES)} batches, data_batch_1[.bin] ... test_batch[.bin]")
            pixels, labels = (_binary if suffix else _pickled)(file)
            self.batches.append((split, file, first[split], pixels, labels))
            first[split] += len(pixels)

    def __iter__(self) -> Iterator[Item]:
        for n, (split, file, first, pixels, labels) in enumerate(self.batches):
            stamp = file.stat().st_mtime_ns
            for i in range(len(pixels)):
                yield Item(f"{split}/{first + i:05d}_{labels[i]}", f"{file}: picture {i}", VALUES, stamp, (n, i))

    def load(self, item: Item) -> Image.Image:
        n, i = item.place
        return Image.fromarray(np.ascontiguousarray(self.batches[n][3][i].transpose(1, 2, 0)))


def _binary(file: Path) -> tuple[np.ndarray, list[int]]:
    wanted = PER_BATCH * (1 + VALUES)
    data = _bytes(file)
    if len(data) != wanted:
        raise DataError(f"{file}: {len(data)} bytes; wanted {wanted}, a label and {VALUES} values for each of {PER_BATCH} pictures")
    rows = np.frombuffer(data, np.uint8).reshape(PER_BATCH, 1 + VALUES)
    return rows[:, 1:].reshape(-1, 3, 32, 32), _labels(file, rows[:, 0].tolist())


def _pickled(file: Path) -> tuple[np.ndarray, list[int]]:
    batch = read_pickle(_bytes(file), str(file))
    if not isinstance(batch, dict) or not {"data", "labels"} <= batch.keys():
        raise DataError(f"{file}: no data and labels in it; wanted a CIFAR-10 batch, or the binary version")
    return _array(file, batch["data"]), _labels(file, batch["labels"])


def _array(file: Path, value: object) -> np.ndarray:
    """The numpy array that the pickle describes: state (version, shape, dtype, column-major?, bytes)."""
    match value:
        case Call("_reconstruct", _, (1, (int(count), int(width)), Call("dtype", ("u1", *_)), bool(fortran), str() | bytes() as text)):
            raw = text.encode("latin-1", "ignore") if isinstance(text, str) else text
            if (count, width) == (PER_BATCH, VALUES) and len(raw) == count * width:
                flat = np.frombuffer(raw, np.uint8).reshape((count, width), order="F" if fortran else "C")
                return flat.reshape(count, 3, 32, 32)
            raise DataError(f"{file}: data of {count}x{width} values in {len(raw)} bytes; wanted {PER_BATCH}x{VALUES}")
    raise DataError(f"{file}: its data is no plain array of uint8; wanted {PER_BATCH}x{VALUES} values")


def _labels(file: Path, labels: object) -> list[int]:
    if not isinstance(labels, list) or len(labels) != PER_BATCH:
        raise DataError(f"{file}: {len(labels) if isinstance(labels, list) else 'no list of'} labels; wanted {PER_BATCH}")
    wrong = [label for label in labels if type(label) is not int or not 0 <= label <= 9]
    if wrong:
        found = "no number" if isinstance(wrong[0], tuple | list | dict) else wrong[0]  # these may take for ever to write out
        raise DataError(f"{file}: a label is {str(found)[:40]}; wanted integers from 0 to 9")
    return labels


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
