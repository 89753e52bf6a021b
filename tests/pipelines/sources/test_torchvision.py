"""Sets by torchvision's classes: the pictures are the class's own, and nothing is unpickled or downloaded."""

import gzip
from pathlib import Path

import numpy as np
from PIL import Image
import pytest

from pipelines import DataError
from pipelines.sources.torchvision_sets import SETS, TorchvisionSource

torchvision = pytest.importorskip("pipelines.torchvision_cpu", reason="torchvision is not installed").torchvision
SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(scope="module", params=["MNIST:mnist", "FashionMNIST:fashion_mnist"])
def unpacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name of a set and a folder with it as torchvision wants it."""
    name, place = request.param.split(":")
    if not (SHARED / place).is_dir():
        pytest.skip(f"{place} is not here: it lies in ../shared/data/{place}")
    root = tmp_path_factory.mktemp(place)
    (root / name / "raw").mkdir(parents=True)
    for file in (SHARED / place).glob("*.gz"):
        (root / name / "raw" / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return name, root


def textures(root: Path, count: int = 3) -> Path:
    """DTD's layout, with drawn pictures."""
    base = root / "dtd" / "dtd"
    for split in ("train", "val", "test"):
        names = [f"woven/{split}_{i}.jpg" for i in range(count)]
        (base / "labels").mkdir(parents=True, exist_ok=True)
        (base / "labels" / f"{split}1.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            (base / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20 + i, 30), (10 * i, 0, 0)).save(base / "images" / name)
    return root


def test_mnist_and_its_kin_are_what_the_class_and_the_bytes_say(unpacked):
    name, root = unpacked
    source = TorchvisionSource(f"{name}:{root}:train+test")
    items = {item.key: item for item in source}
    assert len(items) == 70_000 and (source.channels, source.resolution, source.upscales) == (1, 32, True)
    for split, prefix, count in (("train", "train", 60_000), ("test", "t10k", 10_000)):
        data = (root / name / "raw" / f"{prefix}-images-idx3-ubyte").read_bytes()
        images = np.frombuffer(data, np.uint8, offset=16).reshape(count, 28, 28)
        for i in (0, 17, count - 1):
            assert np.array_equal(np.asarray(source.load(items[f"{split}/{i:08d}"])), images[i])


def test_train_is_read_where_no_split_is_asked_for(tmp_path):
    textures(tmp_path / "a:b")
    source = TorchvisionSource(f"DTD:{tmp_path / 'a:b'}")
    items = list(source)
    assert [item.key for item in items] == [f"train/{i:08d}" for i in range(3)]
    assert [source.load(item).size for item in items] == [(20, 30), (21, 30), (22, 30)]
    assert [item.key for item in TorchvisionSource(f"DTD:{tmp_path / 'a:b'}:val")][:1] == ["val/00000000"]


def test_a_bad_picture_is_named(tmp_path, one_line):
    textures(tmp_path)
    (tmp_path / "dtd" / "dtd" / "images" / "woven" / "train_1.jpg").write_bytes(b"\xff\xd8\xff")
    source = TorchvisionSource(f"DTD:{tmp_path}")
    items = list(source)
    source.load(items[0])
    with pytest.raises(DataError) as caught:
        source.load(items[1])
    assert f"DTD:{tmp_path}: train picture 1: cannot be decoded" in one_line(caught.value)


def test_a_set_that_is_opened_but_not_decoded_by_its_class_is_decoded_here(tmp_path, monkeypatch):
    base = tmp_path / "celeba"
    (base / "img_align_celeba").mkdir(parents=True)
    header = {"list_bbox_celeba": "2\nx y\n", "list_landmarks_align_celeba": "2\nx y\n", "list_attr_celeba": "2\nsmiling young\n"}
    for name in ("list_eval_partition", "identity_CelebA", *header):
        (base / f"{name}.txt").write_text(header.get(name, "") + "1.jpg 0\n2.jpg 0\n3.jpg 2\n4.jpg 2\n")
    for i in (1, 2, 3, 4):
        Image.new("RGB", (178, 218), (i, 100, 0)).save(base / "img_align_celeba" / f"{i}.jpg")
    cut = base / "img_align_celeba" / "2.jpg"
    cut.write_bytes(cut.read_bytes()[:700])
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)  # it wants the published files' md5
    source = TorchvisionSource(f"CelebA:{tmp_path}:train+test")
    items = list(source)
    assert [item.key for item in items] == ["train/00000000", "train/00000001", "test/00000000", "test/00000001"]
    assert [source.load(item).size for item in items[::2]] == [(178, 218)] * 2
    with pytest.raises(DataError, match="train picture 1: cannot be decoded"):
        source.load(items[1])


def test_what_torchvision_would_unpickle_is_refused_before_it_can(tmp_path, monkeypatch):
    monkeypatch.setattr("pickle.load", None)
    monkeypatch.setattr("torch.load", None)
    hints = {"CIFAR10": "use source=cifar10", "CIFAR100": "not done here", "LSUN": "use source=lsun", "ImageNet": "use source=folder"}
    for name, hint in hints.items():
        with pytest.raises(DataError, match=hint):
            TorchvisionSource(f"{name}:{tmp_path}")
    old = tmp_path / "MNIST" / "processed"
    old.mkdir(parents=True)
    for file in ("training.pt", "test.pt"):
        (old / file).write_bytes(b"a pickle")
    with pytest.raises(DataError, match=r"MNIST/processed/test\.pt: a pickle"):
        TorchvisionSource(f"MNIST:{tmp_path}")


@pytest.mark.parametrize("path", ["", "MNIST", "MNIST:", "Places:data", "data/mnist", "FakeData:x"])
def test_a_path_of_another_form_is_told(path, one_line):
    with pytest.raises(DataError) as caught:
        TorchvisionSource(path)
    assert f"path={path}: wanted NAME:ROOT or NAME:ROOT:SPLIT, NAME one of MNIST, " in one_line(caught.value)


def test_an_unknown_split_is_told(tmp_path):
    for split in ("everything", "train+train", "train+x"):
        with pytest.raises(DataError, match="wanted train, val, test, or several joined by"):
            TorchvisionSource(f"DTD:{textures(tmp_path)}:{split}")


@pytest.mark.parametrize("name", SETS)
def test_a_set_that_is_not_there_is_told_and_not_downloaded(tmp_path, name, one_line):
    with pytest.raises(DataError) as caught:
        TorchvisionSource(f"{name}:{tmp_path}")
    assert f"{name}:{tmp_path}: torchvision cannot read " in one_line(caught.value) and "download" not in str(caught.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", SETS)
def test_the_table_of_splits_is_torchvisions(tmp_path, name):
    """Each split is let through by the class, which then misses its files."""
    for split in SETS[name].splits:
        with pytest.raises(DataError) as caught:
            TorchvisionSource(f"{name}:{tmp_path}:{split}")
        assert "Unknown value" not in str(caught.value)
