"""The order: every epoch a permutation, whoever asks for which part of it, whenever."""

from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from pipelines import DataError, Order

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)


def shard_of(sizes: list[int], indices: np.ndarray) -> np.ndarray:
    """The number of the shard of each image, the plain way."""
    return np.repeat(np.arange(len(sizes)), sizes)[indices]


@settings(max_examples=150, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**31), window=st.integers(1, 20), data=st.data())
def test_ranks_and_steps_together_go_through_each_epoch_exactly_once(sizes, seed, window, data):
    """Any data set, world sizes that change at each restart, any batch schedule, several epochs."""
    total, seen, images = sum(sizes), [], 0
    for _ in range(data.draw(st.integers(1, 4), "lives")):
        order = Order(sizes, seed, window)  # a restart knows nothing but the number of images seen
        world = data.draw(st.sampled_from([1, 2, 3, 4, 8]), "world")
        for per_rank in data.draw(st.lists(st.integers(1, 60), max_size=5), "batches"):
            batch = world * per_rank
            ranks = [order.indices(images + rank * per_rank, per_rank) for rank in range(world)]
            seen.append(np.concatenate(ranks))
            assert (seen[-1] == order.indices(images, batch)).all()
            images += batch
    seen = np.concatenate([np.empty(0, np.int64), *seen])
    for epoch in range(-(-images // total)):
        part = seen[epoch * total : (epoch + 1) * total]
        assert len(set(part.tolist())) == len(part)
        assert set(part.tolist()) <= set(range(total))
        if len(part) == total:
            assert sorted(part.tolist()) == list(range(total))


@settings(max_examples=50, deadline=None)
@given(sizes=SIZES, images=st.integers(0, 5000), batch=st.integers(0, 500))
def test_a_batch_is_a_function_of_images_alone(sizes, images, batch):
    used = Order(sizes, 1)
    for before in (0, images + 77, max(0, images - 300)):
        used.indices(before, 50)
    fresh = Order(sizes, 1).indices(images, batch)
    assert fresh.dtype == np.int64 and fresh.shape == (batch,)
    assert (used.indices(images, batch) == fresh).all()


@settings(max_examples=150, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99), window=st.integers(1, 9), images=st.integers(0, 3000))
def test_shards_are_named_before_they_are_needed_and_window_by_window(sizes, seed, window, images):
    """From any point on: the rest of that window's shards, then every window's, each once, for two epochs and more."""
    order, total = Order(sizes, seed, window), sum(sizes)
    end = (images // total + 2) * total
    parts, at = [], images
    while at < end:  # the plain way: the sets of shards of each window, read off the images themselves
        epoch, place = divmod(at, total)
        shuffled = _shards_in_order(order, sizes, epoch)
        lengths = [sum(sizes[s] for s in shuffled[k : k + window]) for k in range(0, len(shuffled), window)]
        until = next(edge for edge in np.cumsum(lengths).tolist() if edge > place)
        needed = set(shard_of(sizes, order.indices(at, until - place)).tolist())
        parts += [shard for shard in shuffled if shard in needed]
        at = epoch * total + until
    assert list(islice(order.shards_from(images), len(parts))) == parts


def _shards_in_order(order: Order, sizes: list[int], epoch: int) -> list[int]:
    bits = np.random.PCG64(np.random.SeedSequence([order.seed, epoch, 0])).random_raw(len(sizes))
    return np.argsort(bits, kind="stable").tolist()


def test_epochs_windows_and_seeds_differ():
    order = Order([100] * 5, 3)
    epochs = [order.indices(e * 500, 500) for e in range(3)]
    assert not (epochs[0] == epochs[1]).all() and not (epochs[1] == epochs[2]).all()
    assert not (Order([100] * 5, 4).indices(0, 500) == epochs[0]).all()
    one, other = Order([100, 100], 3, window=1).indices(0, 200).reshape(2, 100) % 100
    assert not (one == other).all()


def test_reading_stays_within_a_window_of_shards():
    sizes, window = [100] * 12, 3
    shards = shard_of(sizes, Order(sizes, 0, window).indices(0, 1200))
    for first in range(0, 1200, 300):
        assert len(set(shards[first : first + 300].tolist())) == window
    assert sorted(set(shards[:300].tolist())) != [0, 1, 2]  # and the shards themselves are shuffled


def test_the_shuffle_within_a_window_is_uniform():
    """Each image is as likely at each place: 16 images of one window, 4,000 epochs, by chi squared (225 degrees of freedom, +- 5 sigma)."""
    order, epochs = Order([4] * 4, 7), 4000
    places = np.stack([order.indices(epoch * 16, 16) for epoch in range(epochs)])
    counts = np.stack([np.bincount(places[:, place], minlength=16) for place in range(16)])
    expected = epochs / 16
    assert abs(((counts - expected) ** 2 / expected).sum() - 225) < 5 * np.sqrt(2 * 225)
    places = Order([50] * 16, 7).indices(0, 800)
    assert np.abs(np.diff(places)).mean() == pytest.approx(800 / 3, rel=0.1)


def test_a_batch_mixes_a_windows_shards():
    """32 images out of 16 shards touch 16 (1 - (15/16)^32) = 13.97 of them on average."""
    sizes = [500] * 64
    shards = shard_of(sizes, Order(sizes, 0).indices(0, 32000)).reshape(-1, 32)
    assert np.mean([len(set(batch)) for batch in shards.tolist()]) == pytest.approx(13.97, abs=0.15)


def test_the_order_is_the_same_for_ever():
    """A run is resumed with other versions: these numbers must not change."""
    assert Order([4, 3, 5], 2026).indices(0, 14).tolist() == [8, 5, 6, 10, 11, 9, 1, 7, 4, 2, 0, 3, 5, 2]
    assert Order([4, 3, 5], 2026, window=1).indices(24, 12).tolist() == [0, 2, 1, 3, 9, 10, 11, 7, 8, 5, 4, 6]
    assert list(islice(Order([4, 3, 5], 2026, window=2).shards_from(11), 8)) == [1, 0, 2, 1, 0, 2, 1, 1]


def test_lsun_bedrooms_size_costs_a_window_at_a_time():
    """3,033,042 images: what is held is a few windows and two permutations of the shards, not epochs."""
    sizes = [1000] * 3033 + [42]
    order = Order(sizes, 0)
    middle = order.indices(5 * 3_033_042 + 1_500_000, 64)
    assert len(set(shard_of(sizes, middle).tolist())) <= 16
    for images in range(0, 100_000, 1000):
        order.indices(images, 64)
    assert order._images.cache_info().currsize <= 3 and order._shards.cache_info().currsize <= 2


def test_no_images_and_negative_numbers_are_refused():
    for empty in ([], [0, 0]):
        with pytest.raises(DataError, match="0 images"):
            Order(empty, 0)
    with pytest.raises(ValueError, match="images=-1"):
        Order([3], 0).indices(-1, 2)
