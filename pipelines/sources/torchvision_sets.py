"""Image sets that torchvision reads from disk."""

from collections.abc import Iterator
from dataclasses import dataclass
import os
from pathlib import Path
from typing import Any
import zlib

from PIL import Image

from ..errors import DataError
from .base import Item, Source


@dataclass(frozen=True, slots=True)
class _Set:
    splits: tuple[str, ...]  # the first is read where none is asked for
    by_train: bool = False  # the class takes train=True/False, not split=
    channels: int = 3
    resolution: int = 0
    upscales: bool = False


_MNIST = _Set(("train", "test"), by_train=True, channels=1, resolution=32, upscales=True)
# Those that neither unpickle nor evaluate what they read (torchvision 0.28); a class that is not here may do so.
SETS = {
    "MNIST": _MNIST,
    "FashionMNIST": _MNIST,
    "KMNIST": _MNIST,
    "SVHN": _Set(("train", "test", "extra"), resolution=32),
    "STL10": _Set(("train", "test", "unlabeled")),
    "CelebA": _Set(("train", "valid", "test", "all")),
    "Flowers102": _Set(("train", "val", "test")),
    "DTD": _Set(("train", "val", "test")),
    "OxfordIIITPet": _Set(("trainval", "test")),
    "StanfordCars": _Set(("train", "test")),
}
ELSEWHERE = {
    "CIFAR10": "torchvision unpickles its files: use source=cifar10",
    "CIFAR100": "torchvision unpickles its files, which is not done here",
    "LSUN": "torchvision unpickles a cache beside it: use source=lsun",
    "LSUNClass": "torchvision unpickles a cache beside it: use source=lsun",
    "ImageNet": "torchvision reads a pickle beside it: use source=folder",
    "ImageFolder": "use source=folder",
    "DatasetFolder": "use source=folder",
}


class TorchvisionSource(Source):
    """A set by torchvision's own class: path=NAME:ROOT[:SPLIT], e.g. MNIST:data, STL10:data:unlabeled, Flowers102:data:train+test.

    NAME is one of SETS, ROOT what the class calls root; nothing is downloaded. SPLIT is one of the class's, several joined by '+', or left
    out: train. The key is the split and the number in it ('train/00000042').
    """

    def __init__(self, path: str):
        """Raises DataError for a set that is unknown, not laid out as torchvision wants, or that torchvision would unpickle."""
        name, _, rest = path.partition(":")
        if name in ELSEWHERE:
            raise DataError(f"path={path}: {name}: {ELSEWHERE[name]}")
        if name not in SETS or not rest:
            raise DataError(f"path={path}: wanted NAME:ROOT or NAME:ROOT:SPLIT, NAME one of {', '.join(SETS)}")
        self.kind = SETS[name]
        self.channels, self.resolution, self.upscales = self.kind.channels, self.kind.resolution, self.kind.upscales
        root, _, asked = rest.rpartition(":") if not Path(rest).is_dir() else (rest, "", "")
        splits = asked.split("+") if root and asked else [self.kind.splits[0]]
        self.title = f"{name}:{root or rest}"
        for split in splits:
            if split not in self.kind.splits or splits.count(split) > 1:
                raise DataError(f"path={path}: split {split!r}; wanted {', '.join(self.kind.splits)}, or several joined by '+'")
        _refuse_pickles(Path(root or rest) / name)
        self.root = root or rest
        self.sets = {split: self._open(name, self.root, split) for split in splits}

    def __iter__(self) -> Iterator[Item]:
        stamp = _stamp(self.root)
        for split, pictures in self.sets.items():
            for i in range(len(pictures)):
                yield Item(f"{split}/{i:08d}", f"{self.title}: {split} picture {i}", stamp=stamp, place=(split, i))

    def load(self, item: Item) -> Image.Image:
        split, i = item.place
        try:
            image = self.sets[split][i][0]
            image.load()
        except Exception as error:  # what a class raises on a bad file is its own affair: OSError, SyntaxError, ValueError, ...
            raise DataError(f"{item.name}: cannot be decoded ({error})") from error
        return image

    def _open(self, name: str, root: str, split: str) -> Any:
        try:
            from ..torchvision_cpu import torchvision
        except ImportError as error:
            raise DataError("source=torchvision needs the package torchvision, not installed: pip install 'hires[sources]'") from error
        asked = {"train": split == "train"} if self.kind.by_train else {"split": split}
        try:
            return getattr(torchvision.datasets, name)(root, download=False, **asked)
        except Exception as error:  # RuntimeError, OSError, AssertionError, ValueError, as the class happens to find out
            found = f"{type(error).__name__}: {error}".split(". You can use")[0]  # ... download=True, which is not for here
            raise DataError(f"{self.title}: torchvision cannot read {split} there ({found}); wanted its own layout under {root}") from error


def _stamp(root: str) -> int:
    """Changes when any file under `root` is written again: which file a picture comes from only torchvision knows."""
    found = sorted(os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)
    stats = [os.stat(file) for file in found if os.path.exists(file)]
    return zlib.crc32(repr([(one.st_size, one.st_mtime_ns) for one in stats]).encode())


def _refuse_pickles(folder: Path) -> None:
    """MNIST's kin load what torchvision of old left in processed/, if it is there, rather than the IDX files."""
    old = sorted((folder / "processed").glob("*.pt"))
    if old:
        raise DataError(f"{old[0]}: a pickle, which torchvision would load; wanted {folder / 'raw'} alone: move {old[0].parent} away")
