"""The items of a source in order of key, on disk: three million pictures are listed, split and dealt into shards in little memory."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
import hashlib
import heapq
from itertools import islice
import json
from pathlib import Path
import re

from .errors import DataError
from .sources import Item, Source

SORTED_AT_ONCE = 100_000  # items in memory; beyond that, sorted runs are written and merged
SPLITS = ("train", "holdout")


class Other(Exception):
    """The pictures are not those that were expected."""


@dataclass
class SplitConfig:
    """Which pictures are never trained on."""

    holdout: int = 0  # pictures, chosen by a hash of (seed, key)
    seed: int = 0
    prefix: str = ""  # and those whose key starts so, e.g. test/
    match: str = ""  # and those in whose key this regular expression is found, e.g. _4$: labelled 4

    def names(self, key: str) -> list[str]:
        """Which of `prefix` and `match` hold the picture out for its key; none: it is not."""
        found = {"prefix": self.prefix and key.startswith(self.prefix), "match": self.match and re.search(self.match, key)}
        return [name for name, value in found.items() if value]


@dataclass(frozen=True)
class Shard:
    """What a shard is made of: a range of bytes in the list of its split's items."""

    split: str  # train | holdout
    number: int
    start: int
    end: int
    images: int

    @property
    def name(self) -> str:
        """File name without suffix, the same on every level."""
        return f"{'shard' if self.split == 'train' else 'holdout'}-{self.number:05d}"


@dataclass
class Listing:
    """Both splits' items, written to `folder`, and how they are dealt into shards."""

    folder: Path
    images: int = 0  # pictures to prepare
    fingerprint: str = ""  # a hash of all keys and sizes
    left_out: dict[str, int] = field(default_factory=dict)  # files that are not pictures, by suffix
    shard_in_key: bool = False  # as the source's
    repeated: list[dict] = field(default_factory=list)  # items left out since their key was taken, as report.json has them
    shards: list[Shard] = field(default_factory=list)

    def items(self, shard: Shard) -> list[Item]:
        """The items of one shard, in order of key."""
        with (self.folder / f"{shard.split}.items").open("rb") as file:
            file.seek(shard.start)
            return [_item(line) for line in file.read(shard.end - shard.start).splitlines()]

    def remove(self) -> None:
        """Deletes the files: half a gigabyte for three million pictures, and made anew when needed."""
        for split in SPLITS:
            (self.folder / f"{split}.items").unlink(missing_ok=True)


def write_listing(
    source: Source,
    folder: Path,
    split: SplitConfig,
    images_per_shard: int,
    on_error: str,
    seen: Callable[[int], None] | None = None,
    fingerprint: str = "",
) -> Listing:
    """Lists `source` into `folder`; `seen(count)` is called now and then.

    Raises DataError where the source cannot be listed, two pictures have one key (on_error=fail), or nothing would be left to train on,
    and Other where keys and sizes are not those of `fingerprint`.
    """
    listing = Listing(folder)
    drawn, named = _write_sorted(source, listing, split, on_error, seen)
    if fingerprint and listing.fingerprint != fingerprint:
        raise Other
    for name, value in (("prefix", split.prefix), ("match", split.match)):
        if value and not named[name]:
            raise DataError(f"split.{name}={value}: no key is named so; keys look like '{_first_key(folder)}'")
    matched = named["either"]
    if listing.images <= matched + split.holdout:
        raise DataError(f"{matched + split.holdout} of {listing.images} pictures would be held out; wanted at least one to train on")
    _deal(listing, lambda key: key in drawn or bool(split.names(key)), images_per_shard)
    (folder / "all.items").unlink()
    return listing


def _write_sorted(
    source: Source, listing: Listing, split: SplitConfig, on_error: str, seen: Callable[[int], None] | None
) -> tuple[set[str], Counter[str]]:
    """Writes all.items and fills the listing's counts; returns the keys drawn for the hold-out, and how many each name holds out."""
    while (found := _write_once(source, listing, split, on_error, seen)) is None:
        pass
    return found


def _write_once(
    source: Source, listing: Listing, split: SplitConfig, on_error: str, seen: Callable[[int], None] | None
) -> tuple[set[str], Counter[str]] | None:
    """As _write_sorted; None if the source now gives other keys and must be listed again."""
    digest, before, named, drawn = hashlib.sha256(), None, Counter(), []
    listing.images, listing.repeated = 0, []
    with (listing.folder / "all.items").open("wb") as out:
        for item in _sorted(source, listing.folder, seen):
            if before and before.key == item.key:
                if source.tell_apart(before, item):
                    return None
                _repeated(listing, before, item, on_error)
                continue
            before = item
            listing.images += 1
            digest.update(f"{item.key}\0{item.size}\n".encode())
            out.write(_line(item))
            if found := split.names(item.key):
                named.update([*found, "either"])
            elif split.holdout:
                # the smallest hashes, in a heap that has the largest of them on top: hence negated
                value = -int.from_bytes(hashlib.sha256(f"{split.seed}:{item.key}".encode()).digest())
                if len(drawn) < split.holdout:
                    heapq.heappush(drawn, (value, item.key))
                else:
                    heapq.heappushpop(drawn, (value, item.key))
    listing.fingerprint = digest.hexdigest()
    listing.left_out, listing.shard_in_key = dict(source.left_out), source.shard_in_key
    return {key for _, key in drawn}, named


def _repeated(listing: Listing, first: Item, second: Item, on_error: str) -> None:
    reason = f"{second.name}: would get the key '{second.key}' of {first.name}; wanted one picture a key"
    if on_error == "fail":
        raise DataError(f"{reason}: rename one of them (on_error=skip leaves such pictures out)")
    listing.repeated.append({"key": second.key, "file": second.name, "reason": reason})


def _sorted(source: Source, folder: Path, seen: Callable[[int], None] | None) -> Iterator[Item]:
    """All items in order of key, then of name: an external merge sort."""
    runs: list[Path] = []
    items, count = iter(source), 0
    while True:
        part = sorted(islice(items, SORTED_AT_ONCE), key=_order)
        count += len(part)
        if seen:
            seen(count)
        if len(part) < SORTED_AT_ONCE and not runs:
            yield from part
            return
        if not part:
            break
        runs.append(folder / f"run-{len(runs)}.items")
        with runs[-1].open("wb") as out:
            out.writelines(map(_line, part))
    try:
        yield from heapq.merge(*map(_read, runs), key=_order)
    finally:
        for run in runs:
            run.unlink()


def _deal(listing: Listing, held: Callable[[str], bool], images_per_shard: int) -> None:
    """From all.items to train.items and holdout.items, `images_per_shard` to a shard."""
    files = {name: (listing.folder / f"{name}.items").open("wb") for name in SPLITS}
    dealt: dict[str, list[Shard]] = {name: [] for name in SPLITS}
    start, images = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)

    def close(name: str) -> None:
        end = files[name].tell()
        dealt[name].append(Shard(name, len(dealt[name]), start[name], end, images[name]))
        start[name], images[name] = end, 0

    for item in _read(listing.folder / "all.items"):
        name = "holdout" if held(item.key) else "train"
        files[name].write(_line(item))
        images[name] += 1
        if images[name] == images_per_shard:
            close(name)
    for name in SPLITS:
        if images[name]:
            close(name)
        files[name].close()
    listing.shards = dealt["train"] + dealt["holdout"]


def _first_key(folder: Path) -> str:
    return next(_read(folder / "all.items")).key


def _order(item: Item) -> tuple[str, str]:
    return item.key, item.name


def _line(item: Item) -> bytes:
    fields = [item.key, item.name, item.size, item.stamp, item.place]
    return json.dumps(fields).encode() + b"\n"  # ASCII, so a name with lone surrogates survives


def _item(line: bytes) -> Item:
    key, name, size, stamp, place = json.loads(line)
    return Item(key, name, size, stamp, tuple(place))


def _read(path: Path) -> Iterator[Item]:
    with path.open("rb") as file:
        yield from map(_item, file)
