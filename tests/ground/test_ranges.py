"""Ranges of settings: the first one outside is named with its path, what was found and what is wanted."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
import math
from typing import get_type_hints

import pytest

from hires import config as configuration
from hires.cli import VERBS
from hires.errors import HiresError
from hires.ground.ranges import check_ranges, setting
from hires.objectives import SYSTEMS


@dataclass
class Inner:
    share: float = setting(0.5, above=0, at_most=1)
    kind: str = setting("a", among=("", "a", "b"))


@dataclass
class Outer:
    count: int = setting(1, at_least=1)
    beta: float = setting(0.0, at_least=0, below=1)
    rate: float | None = setting(None, above=0, below=math.inf)
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 0}, "count=0: wanted at least 1"),
        ({"beta": 1.0}, "beta=1.0: wanted a number from 0 up and below 1"),
        ({"beta": math.nan}, "beta=nan: wanted a number from 0 up and below 1"),
        ({"rate": math.inf}, "rate=inf: wanted a number above 0"),
        ({"inner": Inner(share=0.0)}, "inner.share=0.0: wanted a number above 0, at most 1"),
        ({"inner": Inner(kind="c")}, "inner.kind=c: wanted a or b"),
    ],
)
def test_a_setting_outside_its_range_is_named(changes, words):
    with pytest.raises(HiresError) as told:
        check_ranges(Outer(**changes), "x.")
    assert str(told.value) == f"x.{words}"


def test_ends_that_belong_to_a_range_and_what_is_not_given_pass():
    check_ranges(Outer(1, 0.0, 1e-9, Inner(1.0, "")))
    check_ranges(Outer(rate=None))


# by name: any number will do; or the code that reads it says what is wanted, which depends on other things than the number
FREE = {"logvar_min", "logvar_max", "split.seed"}
ELSEWHERE = {"resolution", "schedule.resolution", "channels", "images_per_shard", "split.holdout", "workers"}
ELSEWHERE |= {"metrics.real", "fps", "size", "order"}


def numbers(schema: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """(name, whether it has a range) of each setting that is a number."""
    kinds = get_type_hints(schema)
    for one in fields(schema):
        if is_dataclass(kinds[one.name]):
            yield from numbers(kinds[one.name], f"{prefix}{one.name}.")
        elif kinds[one.name] in (int, float, int | None, float | None):
            yield prefix + one.name, "range" in one.metadata


def test_every_number_that_a_person_sets_has_its_range():
    schemas = [*(configuration.schema_of(verb.replace(" ", "_")) for verb in VERBS), *(system.Settings for system in SYSTEMS.values())]
    without = {name for schema in schemas for name, has in numbers(schema) if not has}
    assert without == FREE | ELSEWHERE


WORDS = ["train.seed=-1", "train.threads=-1", "train.threads=100000", "monitor.samples=1", "data.workers=-1", "data.remote_gb=0.0"]


@pytest.mark.parametrize("word", [*WORDS, "monitor.samples=100000000"])
def test_a_number_outside_it_is_refused_before_any_work(word):
    with pytest.raises(HiresError, match=rf"^{word.replace('.', '[.]')}: wanted "):
        configuration.load("train", ["run=nowhere", "data.root=nowhere", word])
