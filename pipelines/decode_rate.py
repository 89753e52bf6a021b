"""A few pictures of a level: which, their bytes, and how fast they decode."""

import time

import numpy as np

from .codecs import decode
from .errors import DataError
from .shards import Shards


def spread(shards: Shards, split: str, count: int) -> list[int]:
    """At most `count` pictures of a split, evenly spread; at an address within its first shard, so that only that is fetched."""
    among = shards.shard_sizes(split)[0] if "://" in shards.root else shards.count(split)
    return np.unique(np.linspace(0, among - 1, min(count, among)).astype(int)).tolist()


def stored(shards: Shards, level: int, split: str, index: int) -> bytes:
    """The stored bytes of a picture; raises DataError if shard or index are damaged."""
    try:
        return shards.read(level, split, [index])[0]
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{shards.root}/index: cannot be used ({error})") from error


def decode_rate(shards: Shards, level: int, count: int) -> tuple[float, list[str]]:
    """Pictures that one thread decodes in a second of its processor's time, over `count` training pictures of a level, evenly spread.

    Reading is not counted, nor the time that other processes take. 0 where none could be measured; and a line for each
    picture that cannot be read or decoded.
    """
    seconds, decoded, wrong = 0.0, 0, []
    for number, index in enumerate([0, *spread(shards, "train", count)]):  # the first twice: what is loaded once should not count
        try:
            data = stored(shards, level, "train", index)
            start = time.thread_time()
            decode(data, level, shards.channels)
            took = time.thread_time() - start
        except DataError as error:
            wrong.append(str(error))
            if "://" in shards.root:  # the one shard that is read there cannot be had: each further picture would try again for long
                break
        except ValueError as error:
            wrong.append(f"{_place(shards, level, index)}: {error}, though they are the bytes that were written; prepare it anew")
        else:
            seconds, decoded = seconds + took * (number > 0), decoded + (number > 0)
    return (decoded / seconds if seconds else 0.0), list(dict.fromkeys(wrong))


def _place(shards: Shards, level: int, index: int) -> str:
    try:
        return shards.place(level, "train", index)
    except (OSError, ValueError, IndexError):  # the keys are damaged, which is reported elsewhere
        return f"{shards.root}/{level}: training picture {index}"
