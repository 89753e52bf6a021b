"""The loader gives the pictures of the plan in its order, ahead of time, and fails in words; test_dali.py has what is DALI's alone."""

import importlib.util
from itertools import count
import threading
import time

import numpy as np
import pytest
import torch

from pipelines import DataError, Loader, Order, PrepareConfig, Shards, prepare
from pipelines.codecs import decode
from pipelines.decoders import HostBatches

HAS_DALI = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
NO_DALI = pytest.mark.skipif(not HAS_DALI, reason="DALI is not installed: pip install 'hires[dali-cuda13]'")
KINDS = ["pillow", pytest.param("dali", marks=NO_DALI)]


def directly(shards: Shards, resolution: int, indices: np.ndarray, split: str = "train") -> torch.Tensor:
    """What the loader must give, the plain way."""
    return torch.stack([torch.tensor(decode(data, resolution, 3)) for data in shards.read(resolution, split, indices)]).permute(0, 3, 1, 2)


def threads() -> list[str]:
    """Names of the threads that decode or read."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("decode", "read"))]


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """The pictures read from shards, in the order of reading."""
    seen, read = [], Shards.read

    def noting(self, resolution, split, indices):
        seen.extend(np.asarray(indices).tolist())
        return read(self, resolution, split, indices)

    monkeypatch.setattr(Shards, "read", noting)
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("resolution", [4, 128])
def test_batches_are_the_plans_pictures_in_its_order(prepared, cache_gb, workers, resolution, kind):
    """On 128x128 JPEG 4:4:4 DALI's libjpeg-turbo gives Pillow's very bytes; test_dali.py states what differs with subsampled colours."""
    order = Order(prepared.shard_sizes("train"), 5)
    plan = [order.indices(images, batch) for images, batch in ((0, 8), (8, 30), (38, 1), (39, 0), (39, 8))]
    loader = Loader(prepared, resolution, "train", cache_gb, workers, kind)
    for _ in range(2):  # decoded, then from memory where it is kept
        batches = list(loader.stream(plan))
        assert [len(batch) for batch in batches] == [8, 30, 1, 0, 8]
        for batch, indices in zip(batches, plan, strict=True):
            assert batch.dtype == torch.uint8 and batch.shape == (len(indices), 3, resolution, resolution)
            assert batch.is_contiguous(memory_format=torch.channels_last)
            assert not len(indices) or torch.equal(batch, directly(prepared, resolution, indices))


@pytest.mark.parametrize("kind", KINDS)
def test_any_worlds_ranks_together_get_the_pictures_of_one(prepared, kind):
    order = Order(prepared.shard_sizes("train"), 1)
    alone = torch.cat(list(Loader(prepared, 128, cache_gb=0, kind=kind).stream(order.indices(i, 12) for i in (0, 12, 24))))
    for world in (2, 3):
        share = 12 // world
        plans = [[order.indices(i + rank * share, share) for i in (0, 12, 24)] for rank in range(world)]
        ranks = [list(Loader(prepared, 128, cache_gb=0, workers=1 + rank, kind=kind).stream(plan)) for rank, plan in enumerate(plans)]
        assert torch.equal(torch.cat([part for step in zip(*ranks, strict=True) for part in step]), alone)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codec", ["png", "webp-lossless", "raw"])
@pytest.mark.parametrize("channels", [3, 1])
def test_lossless_codecs_give_the_very_bytes_on_both_loaders(photos, tmp_path, codec, kind, channels):
    settings = {"resolution": 128, "images_per_shard": 7, "workers": 1, "channels": channels}
    prepare(PrepareConfig(path=str(photos), out=str(tmp_path / "png"), codec="png", **settings))
    prepare(PrepareConfig(path=str(photos), out=str(tmp_path / "set"), codec=codec, **settings))
    expected, shards = Shards.open(tmp_path / "png"), Shards.open(tmp_path / "set")
    wanted = np.stack([decode(data, 128, channels) for data in expected.read(128, "train", range(30))]).transpose(0, 3, 1, 2)
    assert (Loader(shards, 128, cache_gb=0, workers=2, kind=kind).read(range(30)).numpy() == wanted).all()


def test_held_out_pictures_are_read_by_number(prepared):
    loader = Loader(prepared, 64, "holdout")
    assert torch.equal(loader.read([4, 0, 4]), directly(prepared, 64, np.array([4, 0, 4]), "holdout"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
def test_batches_are_the_callers_to_change_and_to_keep(prepared, cache_gb, kind):
    loader, kept = Loader(prepared, 128, "train", cache_gb, 2, kind), []
    for batch in loader.stream([np.arange(k, k + 5) for k in range(20)]):
        kept.append((batch, batch.clone()))
        if len(kept) % 2:
            batch.zero_()
            kept[-1] = (batch, batch.clone())
    assert all(torch.equal(batch, copy) for batch, copy in kept)
    assert torch.equal(loader.read(range(25)), directly(prepared, 128, np.arange(25)))


def test_memory_is_used_again_only_when_nobody_holds_it():
    memory = HostBatches(4, 3)
    first = memory.take(2)
    place, view = first.data_ptr(), first.permute(0, 3, 1, 2)[1:]
    del first
    assert memory.take(2).data_ptr() != place
    del view
    assert place in {memory.take(1).data_ptr(), memory.take(2).data_ptr()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_level_that_fits_is_decoded_once(prepared, reads, kind):
    plan = [np.arange(k, k + 9) % 25 for k in range(0, 100, 3)]  # read ahead over batches that overlap
    kept, not_kept = Loader(prepared, 64, kind=kind), Loader(prepared, 64, cache_gb=25 * 3 * 64 * 64 / 1e9 - 1e-9, kind=kind)
    for _ in range(2):
        assert len(list(kept.stream(plan))) == len(plan)
    assert kept.cached and sorted(reads) == list(range(25))
    reads.clear()
    for _ in range(2):
        not_kept.read(range(25))
    assert not not_kept.cached and len(reads) == 50


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_stream_left_early_did_not_deliver_is_not_taken_for_known(prepared, kind):
    loader = Loader(prepared, 64, kind=kind)
    stream = loader.stream([np.arange(0, 8), np.arange(8, 16), np.arange(16, 24)])
    next(stream)
    stream.close()
    assert torch.equal(loader.read(range(24)), directly(prepared, 64, np.arange(24)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
def test_an_endless_plan_is_read_ahead_by_a_bounded_number_of_batches(prepared, cache_gb, kind):
    asked = []

    def endless():
        for step in count():
            asked.append(step)
            yield np.arange(step, step + 8) % 25

    stream = Loader(prepared, 128, "train", cache_gb, 2, kind).stream(endless())
    for step in range(40):
        next(stream)
        assert 2 <= len(asked) - step - 1 <= 8
    stream.close()


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_goes_on_while_the_caller_trains(prepared, reads, kind):
    stream = Loader(prepared, 128, cache_gb=0, workers=1, kind=kind).stream([np.arange(5)] * 4)
    next(stream)
    deadline = time.monotonic() + 10
    while len(reads) < 15 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(reads) == 15
    stream.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_left_early_leaves_no_threads(prepared, kind):
    stream = Loader(prepared, 128, cache_gb=0, workers=2, kind=kind).stream(np.arange(8) for _ in count())
    next(stream)
    assert threads()
    stream.close()
    assert not threads()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resolution", [64, 128])
@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
@pytest.mark.parametrize("bad", ["half", "zeros", "empty", "another size"])
def test_a_picture_that_cannot_be_decoded_is_named_by_shard_and_key(prepared, resolution, cache_gb, bad, one_line, kind, monkeypatch):
    """Its checksum is right here: the file was written so."""
    read = Shards.read

    def spoilt(self, level, split, indices):
        good = read(self, level, split, indices)
        worse = {"half": lambda b: b[: len(b) // 2], "zeros": lambda b: bytes(400), "empty": lambda b: b""}
        other = read(self, 32, split, [9])[0]
        return [worse.get(bad, lambda b: other)(data) if i == 9 else data for i, data in zip(indices, good, strict=True)]

    monkeypatch.setattr(Shards, "read", spoilt)
    stream = Loader(prepared, resolution, "train", cache_gb, 2, kind).stream([np.array([0, 1]), np.array([8, 9])])
    next(stream)  # what comes before it is delivered
    with pytest.raises(DataError, match=r"found|cannot be decoded") as caught:
        next(stream)
    assert f"{resolution}/shard-00001.tar: {prepared.keys('train')[9]}: " in one_line(caught.value)
    assert f"wanted a picture of {resolution}x{resolution}" in str(caught.value)
    assert not threads()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("death", [SystemExit(3), MemoryError("no room"), KeyError("a bug"), KeyboardInterrupt()])
def test_a_threads_death_reaches_the_consumer_in_words(prepared, death, one_line, kind, monkeypatch):
    read = Shards.read

    def dying(self, level, split, indices):
        if 9 in indices:
            raise death
        return read(self, level, split, indices)

    monkeypatch.setattr(Shards, "read", dying)
    stream = Loader(prepared, 128, cache_gb=0, workers=1, kind=kind).stream([np.array([0, 1]), np.array([8, 9])])
    next(stream)
    with pytest.raises(DataError, match=r"the thread that was .* 2 pictures, .* died") as caught:
        next(stream)
    assert type(death).__name__ in one_line(caught.value) and prepared.keys("train")[9] in str(caught.value)
    assert not threads()


def test_a_decoders_death_reaches_the_consumer_in_words(prepared, monkeypatch):
    def dying(*arguments: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("pipelines.decoders.pillow.decode_into", dying)
    with pytest.raises(DataError, match=r"the thread that was decoding 2 pictures, .* died: MemoryError: no room"):
        Loader(prepared, 128, cache_gb=0, workers=1).read([0, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_plan_fails_as_it_is(prepared, kind):
    def plan():
        yield np.arange(4)
        raise ValueError("the plan's own")

    with pytest.raises(ValueError, match="the plan's own"):
        list(Loader(prepared, 128, cache_gb=0, kind=kind).stream(plan()))
    assert not threads()


def test_a_missing_level_split_or_loader_is_refused_at_once(prepared):
    with pytest.raises(DataError, match="no level 256"):
        Loader(prepared, 256)
    without = Shards(prepared.files, {**prepared.manifest, "counts": {"train": 25, "holdout": 0}})
    with pytest.raises(DataError, match="no picture in the split holdout"):
        Loader(without, 64, "holdout")
    with pytest.raises(DataError, match="loader=tf: unknown; wanted pillow or dali"):
        Loader(prepared, 64, kind="tf")
