"""Ranges of settings: the first one outside is named with its path, what was found and what is wanted."""

from dataclasses import dataclass, field
import math

import pytest

from hires.errors import HiresError
from hires.ground.ranges import check_ranges, setting


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
