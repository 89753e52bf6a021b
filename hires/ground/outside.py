"""JSON that others may have written, or a disk damaged: read so that nothing in it surprises who uses it."""

import json
import re
from types import UnionType
from typing import Any

LARGEST = 2**64  # of a whole number: beyond it neither torch nor a float takes it
Number = int | float
LONE = re.compile(r"[\ud800-\udfff]")


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises ValueError for what is none, is nested deeper than Python bears, holds a whole number of more than 64 bits, or half of a
    character, which nothing can print.
    """
    text = text.decode() if isinstance(text, bytes) else text
    try:
        value = json.loads(text, parse_int=_whole)
        if "\\u" in text and LONE.search(json.dumps(value, ensure_ascii=False)):
            raise ValueError("half of a character in it")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def problem(value: Any, shape: Any, at: str = "") -> str:
    """Where a value is not of a shape, in a few words, or ''.

    A shape is a type or union of types (bool is no int), a list of one shape for its items, or a dictionary of shapes, which leaves other
    keys alone; keys that end in ? may be missing.
    """
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _not(value, "a list", at)
        return next(filter(None, (problem(one, shape[0], f"{at}[{i}]") for i, one in enumerate(value))), "")
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _not(value, "an object", at)
        for key, one in shape.items():
            name = key.removesuffix("?")
            if name not in value and name == key:
                return f"{at}{'.' * bool(at)}{key} is missing"
            if name in value and (found := problem(value[name], one, f"{at}{'.' * bool(at)}{name}")):
                return found
        return ""
    kinds = shape.__args__ if isinstance(shape, UnionType) else (shape,)
    if not isinstance(value, shape) or (isinstance(value, bool) and bool not in kinds):
        return _not(value, " or ".join(kind.__name__ for kind in kinds), at)
    return ""


def _not(value: Any, wanted: str, at: str) -> str:
    text = repr(value)
    return f"{at or 'it'} is {text if len(text) < 40 else text[:40] + '…'}, wanted {wanted}"


def _whole(digits: str) -> int:
    value = int(digits)
    if abs(value) > LARGEST:
        raise ValueError(f"a number of {len(digits)} digits in it")
    return value
