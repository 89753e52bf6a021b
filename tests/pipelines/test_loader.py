"""The loader gives the pictures of the plan in its order, ahead of time, and fails in words."""

from itertools import count
import shutil
import threading
import time

import numpy as np
import pytest
import torch

from pipelines import DataError, Loader, Order, Shards
from pipelines.codecs import decode


def directly(shards: Shards, resolution: int, indices: np.ndarray, split: str = "train") -> torch.Tensor:
    """What the loader must give, the plain way."""
    return torch.stack([torch.tensor(decode(data, resolution, 3)).permute(2, 0, 1) for data in shards.read(resolution, split, indices)])


@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("resolution", [4, 128])
def test_batches_are_the_plans_pictures_in_its_order(prepared, cache_gb, workers, resolution):
    order = Order(prepared.shard_sizes("train"), 5)
    plan = [order.indices(images, batch) for images, batch in ((0, 8), (8, 30), (38, 1), (39, 8))]
    loader = Loader(prepared, resolution, cache_gb=cache_gb, workers=workers)
    for _ in range(2):  # decoded, then from memory where it is kept
        batches = list(loader.stream(plan))
        assert len(batches) == 4
        for batch, indices in zip(batches, plan, strict=True):
            assert batch.dtype == torch.uint8 and batch.shape == (len(indices), 3, resolution, resolution) and batch.is_contiguous()
            assert torch.equal(batch, directly(prepared, resolution, indices))


def test_held_out_pictures_are_read_by_number(prepared):
    loader = Loader(prepared, 64, "holdout")
    assert torch.equal(loader.read([4, 0, 4]), directly(prepared, 64, np.array([4, 0, 4]), "holdout"))


def test_batches_are_the_callers_to_change(prepared):
    loader = Loader(prepared, 8)
    loader.read(range(25)).zero_()
    assert torch.equal(loader.read(range(25)), directly(prepared, 8, np.arange(25)))


def test_a_level_that_fits_is_decoded_once(prepared, monkeypatch):
    decoded = []

    def counting(*arguments: object) -> np.ndarray:
        decoded.append(1)
        return decode(*arguments)

    monkeypatch.setattr("pipelines.loader.decode", counting)
    kept, not_kept = Loader(prepared, 64), Loader(prepared, 64, cache_gb=25 * 3 * 64 * 64 / 1e9 - 1e-9)
    for _ in range(3):
        kept.read(range(25))
    assert kept.cached and len(decoded) == 25
    for _ in range(2):
        not_kept.read(range(25))
    assert not not_kept.cached and len(decoded) == 75


@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
def test_an_endless_plan_is_read_ahead_by_a_bounded_number_of_batches(prepared, cache_gb):
    asked = []

    def endless():
        for step in count():
            asked.append(step)
            yield np.arange(step, step + 8) % 25

    stream = Loader(prepared, 128, cache_gb=cache_gb, workers=2).stream(endless())
    for step in range(10):
        next(stream)
        assert 2 <= len(asked) - step - 1 <= 4
    stream.close()


def test_decoding_goes_on_while_the_caller_trains(prepared, monkeypatch):
    decoded = []

    def counting(*arguments: object) -> np.ndarray:
        decoded.append(1)
        return decode(*arguments)

    monkeypatch.setattr("pipelines.loader.decode", counting)
    stream = Loader(prepared, 128, cache_gb=0, workers=1).stream([np.arange(5)] * 4)
    next(stream)
    deadline = time.monotonic() + 10
    while len(decoded) < 15 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(decoded) == 15


def test_a_stream_left_early_leaves_no_threads(prepared):
    stream = Loader(prepared, 128, cache_gb=0, workers=2).stream(np.arange(8) for _ in count())
    next(stream)
    stream.close()
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("decode") for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name.startswith("decode") for thread in threading.enumerate())


@pytest.mark.parametrize("resolution", [64, 128])
@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
def test_a_picture_that_cannot_be_decoded_is_named_by_shard_and_key(prepared, tmp_path, resolution, cache_gb, one_line):
    copy = shutil.copytree(prepared.root, tmp_path / "copy")
    shard = copy / str(resolution) / "shard-00001.tar"
    data = bytearray(shard.read_bytes())
    start = data.find(prepared.read(resolution, "train", [9])[0])
    data[start : start + 400] = bytes(400)
    shard.write_bytes(data)
    loader = Loader(Shards.open(copy), resolution, cache_gb=cache_gb, workers=2)
    stream = loader.stream([np.array([0, 1]), np.array([8, 9])])
    next(stream)
    with pytest.raises(DataError) as caught:
        next(stream)
    assert str(shard) in one_line(caught.value) and prepared.keys("train")[9] in str(caught.value)


def test_a_missing_level_or_split_is_refused_at_once(prepared, tmp_path):
    with pytest.raises(DataError, match="no level 256"):
        Loader(prepared, 256)
    prepared_without = Shards(prepared.files, {**prepared.manifest, "counts": {"train": 25, "holdout": 0}})
    with pytest.raises(DataError, match="no picture in the split holdout"):
        Loader(prepared_without, 64, "holdout")
