"""JSON from outside: what is none, or would surprise who uses it, is refused in a few words."""

import pytest

from hires.ground.outside import Number, parse, problem

SHAPE = {"name": str, "size?": int, "speed?": Number, "files": [{"bytes": int}]}


@pytest.mark.parametrize("text", ["[" * 3000 + "]" * 3000, "1" + "0" * 400, "9" * 5000, '["\\ud800"]', '{"\\udc00": 1}', "{", b"\xff", ""])
def test_what_is_refused(text):
    with pytest.raises(ValueError):
        parse(text)


def test_what_is_read():
    text = '{"a": [1, -2.5, null, "\\ud83d\\ude00 \\\\ud800", 18446744073709551615]}'
    assert parse(text) == {"a": [1, -2.5, None, "😀 \\ud800", 2**64 - 1]}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"name": "a", "files": [], "other": {}}, ""),
        ({"name": "a", "files": [{"bytes": 3}], "size": 1, "speed": 2}, ""),
        (None, "it is None, wanted an object"),
        ({"files": []}, "name is missing"),
        ({"name": "a", "files": {}}, "files is {}, wanted a list"),
        ({"name": "a", "files": [{"bytes": 3}, {"bytes": "x" * 99}]}, "files[1].bytes is '" + "x" * 39 + "…, wanted int"),
        ({"name": "a", "files": [], "size": True}, "size is True, wanted int"),
        ({"name": "a", "files": [], "speed": "fast"}, "speed is 'fast', wanted int or float"),
    ],
)
def test_where_a_value_is_not_of_a_shape(value, said):
    assert problem(value, SHAPE) == said
