"""The listing: sorted, split and dealt as a list in memory would be, whatever the number of items and of those held at once."""

from collections.abc import Iterator
import hashlib
from pathlib import Path
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
import pytest

from pipelines import DataError, SplitConfig, listing
from pipelines.sources import Item, Source

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)


class ListSource(Source):
    """A source that lists what it is given."""

    def __init__(self, items: list[Item]):
        self.items = items

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def load(self, item: Item) -> Image.Image:
        raise AssertionError("listing must not decode")


def items_of(keys: list[str]) -> list[Item]:
    return [Item(key, f"file {i}", i % 7, i, (i, "place")) for i, key in enumerate(keys)]


@settings(max_examples=80, deadline=None)
@given(
    keys=st.lists(NAMES, min_size=1, max_size=60, unique=True),
    at_once=st.integers(1, 70),
    per_shard=st.integers(1, 20),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 9),
)
def test_shards_are_those_of_a_list_sorted_in_memory(keys, at_once, per_shard, share, seed):
    items, held = items_of(keys), int(len(keys) * share)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "SORTED_AT_ONCE", at_once)
        found = listing.write_listing(ListSource(items), Path(folder), SplitConfig(held, seed), per_shard, "fail")
        dealt = {split: [found.items(shard) for shard in found.shards if shard.split == split] for split in ("train", "holdout")}
        left = {path.name for path in Path(folder).iterdir()}
    drawn = set(sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())[:held])
    for split, parts in dealt.items():
        expected = sorted((item for item in items if (item.key in drawn) == (split == "holdout")), key=lambda item: item.key)
        assert [item for part in parts for item in part] == expected
        assert [len(part) for part in parts[:-1]] == [per_shard] * (len(parts) - 1) and all(parts)
    assert found.images == len(keys) == sum(shard.images for shard in found.shards)
    assert left == {"train.items", "holdout.items"}  # nothing of the sorting is left behind


def test_keys_with_a_prefix_are_held_out_and_the_draw_is_among_the_others(tmp_path):
    source = ListSource(items_of([f"{folder}/{i}" for folder in ("test", "train") for i in range(20)]))
    found = listing.write_listing(source, tmp_path, SplitConfig(5, 0, "test/"), 1000, "fail")
    held = [item.key for item in found.items(found.shards[1])]
    assert sum(key.startswith("test/") for key in held) == 20 and len(held) == 25


def test_keys_that_match_an_expression_are_held_out_and_the_draw_is_among_the_others(tmp_path, one_line):
    source = ListSource(items_of([f"train/{i:03d}_{i % 10}" for i in range(100)]))
    found = listing.write_listing(source, tmp_path, SplitConfig(18, 0, match="_4$"), 1000, "fail")
    kept, held = ([item.key for item in found.items(shard)] for shard in found.shards)
    assert len(kept) == 72 and sum(key.endswith("_4") for key in held) == 10 and len(held) == 28
    with pytest.raises(DataError) as caught:
        listing.write_listing(source, tmp_path, SplitConfig(match="_a$"), 1000, "fail")
    assert "split.match=_a$" in one_line(caught.value) and "train/000_0" in str(caught.value)


def test_the_fingerprint_knows_keys_and_sizes_but_not_the_order_of_listing(tmp_path):
    items = items_of(["b", "a", "c"])
    others = [items[::-1], items[:2], [*items[:2], Item("c", "file 2", 99)]]
    one, same, *differ = (listing.write_listing(ListSource(i), tmp_path, SplitConfig(), 9, "fail").fingerprint for i in (items, *others))
    assert one == same and one not in differ


@pytest.mark.parametrize("at_once", [2, 100])
def test_two_pictures_of_one_key_are_named_and_fatal_or_left_out_as_asked(tmp_path, at_once, monkeypatch, one_line):
    monkeypatch.setattr(listing, "SORTED_AT_ONCE", at_once)
    source = ListSource(items_of(["a", "b", "c", "b", "b"]))
    with pytest.raises(DataError) as caught:
        listing.write_listing(source, tmp_path, SplitConfig(), 10, "fail")
    assert one_line(caught.value).startswith("file 3: would get the key 'b' of file 1") and "on_error=skip" in str(caught.value)
    found = listing.write_listing(source, tmp_path, SplitConfig(), 10, "skip")
    assert [item.name for item in found.items(found.shards[0])] == ["file 0", "file 1", "file 2"]
    assert [bad["file"] for bad in found.repeated] == ["file 3", "file 4"]


def test_names_that_are_no_utf8_survive(tmp_path):
    item = Item("a", "x/\udcff.jpg", 3, 4, ("x/\udcff.jpg",))
    found = listing.write_listing(ListSource([item]), tmp_path, SplitConfig(), 10, "fail")
    assert found.items(found.shards[0]) == [item]
