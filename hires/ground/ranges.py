"""Settings with their ranges: declared beside the default, checked by one function."""

from dataclasses import field, fields, is_dataclass
import math
from typing import Any

from hires.errors import HiresError


def setting(
    default: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    among: tuple = (),
    wanted: str = "",
) -> Any:
    """A dataclass field with its range: bounds of a number, or `among`, all there is. `wanted` says more than these words would."""
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    range_ = {"among": among, "wanted": wanted, **bounds}
    return field(default=default, metadata={"range": range_})


def check_ranges(config: Any, prefix: str = "") -> None:
    """Raise HiresError for the first setting of a dataclass, and of those within it, that is outside its range: key, found, wanted.

    NaN is in no range, None (not given) in each; infinity is out where `below` says so, which the message leaves unsaid.
    """
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            check_ranges(value, f"{prefix}{one.name}.")
        elif "range" in one.metadata and value is not None and not _inside(value, **one.metadata["range"]):
            raise HiresError(f"{prefix}{one.name}={value}: wanted {_words(one.metadata['range'], isinstance(value, float))}")


def _inside(value: Any, among: tuple, wanted: str, at_least, above, at_most, below) -> bool:
    if among:
        return value in among
    low = (at_least is None or value >= at_least) and (above is None or value > above)
    return low and value <= (math.inf if at_most is None else at_most) and value < (math.inf if below is None else below)


def _words(range_: dict, real: bool) -> str:
    if range_["wanted"]:
        return range_["wanted"]
    if range_["among"]:
        *most, last = [str(one) for one in range_["among"] if one != ""]
        return f"{', '.join(most)} or {last}" if most else last
    at_least, above, at_most, below = (range_[name] for name in ("at_least", "above", "at_most", "below"))
    if at_least is not None and at_most is not None:
        return f"{'a number from ' * real}{at_least:g} to {at_most:g}"
    low = f"above {above:g}" if above is not None else f"from {at_least:g} up" if real else f"at least {at_least}"
    high = f", at most {at_most:g}" if at_most is not None else f" and below {below:g}" if below not in (None, math.inf) else ""
    return f"{'a number ' * real}{low}{high}"
