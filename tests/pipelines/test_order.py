"""The order: every epoch a permutation, whoever asks for which part of it, whenever."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from pipelines import DataError, Order

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)


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


def test_epochs_and_seeds_differ():
    order = Order([100] * 5, 3)
    epochs = [order.indices(e * 500, 500) for e in range(3)]
    assert not (epochs[0] == epochs[1]).all() and not (epochs[1] == epochs[2]).all()
    assert not (Order([100] * 5, 4).indices(0, 500) == epochs[0]).all()


def test_reading_stays_within_a_window_of_shards():
    sizes, window = [100] * 12, 3
    shards = Order(sizes, 0, window).indices(0, 1200) // 100
    for first in range(0, 1200, 300):
        assert len(set(shards[first : first + 300].tolist())) == window
    assert sorted(set(shards[:300].tolist())) != [0, 1, 2]  # and the shards themselves are shuffled


def test_the_shuffle_within_a_window_is_thorough():
    places = Order([50] * 16, 7).indices(0, 800)
    assert abs(np.corrcoef(places, np.arange(800))[0, 1]) < 0.1
    assert np.abs(np.diff(places)).mean() == pytest.approx(800 / 3, rel=0.1)


def test_the_order_is_the_same_for_ever():
    """A run is resumed with other versions: these numbers must not change."""
    assert Order([4, 3, 5], 2026).indices(0, 14).tolist() == [7, 9, 1, 0, 6, 4, 8, 5, 2, 3, 11, 10, 3, 2]
    assert Order([4, 3, 5], 2026, window=1).indices(24, 12).tolist() == [1, 3, 2, 0, 7, 8, 9, 11, 10, 6, 4, 5]


def test_only_two_epochs_are_held():
    order = Order([10], 0)
    order.indices(0, 1000)
    assert len(order._epochs) <= 2


def test_no_images_and_negative_numbers_are_refused():
    with pytest.raises(DataError, match="0 images"):
        Order([], 0)
    with pytest.raises(ValueError, match="images=-1"):
        Order([3], 0).indices(-1, 2)
