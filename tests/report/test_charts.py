"""Curves: axes with round values, peaks kept, gaps where there is no number, levels where they are."""

import math
import re
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from hires.report.charts import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Chart, Series, draw, number, scale, thinned, thousands, ticks

LEVELS = [(0, 0, 400, "4"), (400, 600, 1000, "8")]


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_linear_axes_have_three_to_eight_round_values_in_range(low, spread):
    """Rounding of a range that is small beside its place excepted."""
    high = low + spread
    if spread < 1e-9 * max(1.0, abs(low)):
        return
    found = ticks(low, high, "")
    assert 3 <= len(found) <= 8
    slack = 1e-6 * spread
    assert all(low - slack <= value <= high + slack for value in found)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-8, 1e8), st.floats(11, 1e9))
def test_logarithmic_axes_have_round_values_in_range(low, ratio):
    found = ticks(low, low * ratio, "log scale")
    assert 1 <= len(found) <= 7 and all(low <= value <= low * ratio for value in found)
    assert all(f"{value:e}"[0] in "1235" for value in found)


def test_the_scale_follows_the_values():
    assert scale([0.4, 0.03])[1] == "log scale"
    assert scale([0.4, 0.3])[1] == ""
    assert scale([0.4, 0.03], linear=True)[1] == ""
    assert scale([-2.0, 1.0, 3.0])[1] == ""
    of, name = scale([-1.0, 1.0, 2.0, -1e6])
    assert name == "log scale both ways"
    assert of(1e6) == -of(-1e6) and of(1e6) < 20  # an explosion leaves the rest to be seen


def test_thinning_keeps_ends_and_peaks():
    points = [(float(k), math.sin(k)) for k in range(10_000)]
    points[4321] = (4321.0, 99.0)
    points[77] = (77.0, -99.0)
    found = thinned(points)
    assert len(found) < 400 and found == sorted(found)
    assert {points[0], points[-1], points[4321], points[77]} <= set(found)
    assert thinned(points[:50]) == points[:50]


def svg(chart: Chart, axis: Axis) -> ElementTree.Element:
    return ElementTree.fromstring(str(draw(chart, axis)))


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]


def test_a_curve_goes_through_its_points():
    """The lowest value lies lower than the highest, both inside the frame; images are proportional to x."""
    drawn = svg(Chart("gap", [Series("gap", [(0, 1.0), (500, 3.0), (1000, 2.0)])]), Axis(1000, LEVELS))
    (curve,) = [e for e in drawn.iter("path")]
    (x0, y0), (x1, y1), (x2, y2) = places(curve.attrib["d"])
    assert (x0, x2) == (LEFT, WIDTH - RIGHT) and x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.1)
    assert TOP <= y1 < y0 <= HEIGHT
    labels = {e.text: float(e.attrib["y"]) - 4 for e in drawn.iter("text") if e.attrib["text-anchor"] == "end"}
    assert labels["2"] == pytest.approx(y2, abs=0.1)  # the axis says what the curve shows


def test_a_value_that_is_no_number_is_a_gap_and_a_lonely_point_a_dot():
    drawn = svg(Chart("R", [Series("R", [(1, 1.0), (2, 2.0), (3, math.nan), (4, 1.5), (5, math.inf)])]), Axis(5))
    (curve,), (dot,) = drawn.iter("path"), drawn.iter("circle")
    assert len(places(curve.attrib["d"])) == 2
    assert float(dot.attrib["cx"]) == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) * 4 / 5, abs=0.1)


def test_levels_are_named_and_their_fade_ins_shaded():
    drawn = svg(Chart("R", [Series("R", [(0, 1.0), (1000, 2.0)])]), Axis(1000, LEVELS, [(700, "back")]))
    (fade,) = [e for e in drawn.iter("rect")]
    width = (WIDTH - LEFT - RIGHT) / 1000
    assert float(fade.attrib["x"]) == pytest.approx(LEFT + 400 * width, abs=0.1)
    assert float(fade.attrib["width"]) == pytest.approx(200 * width, abs=0.1)
    middle = {e.text for e in drawn.iter("text") if e.attrib["text-anchor"] == "middle"}
    assert {"4", "8"} <= middle
    assert [e for e in drawn.iter("line") if e.attrib["class"] == "mark back"]


def test_a_title_is_text_and_never_markup():
    drawn = svg(Chart('<b>"&', [Series("<i>", [(0, 1.0), (9, 1.0)])]), Axis(9, [(0, 0, 9, "<u>")]))
    assert drawn.attrib["aria-label"].startswith('<b>"&: <i> ends at 1')
    assert not [e for e in drawn.iter() if e.tag in ("b", "i", "u")]


def test_nothing_finite_is_said():
    assert "no finite value" in draw(Chart("R", [Series("R", [(0, math.nan)])]), Axis(1))


def test_numbers_for_a_person():
    assert [number(v) for v in (0.03042, -2.138, math.nan, 1234567.0)] == ["0.0304", "−2.14", "–", "1.23e+06"]
    assert [thousands(v) for v in (500, 50_000, 1_200_000, 999)] == ["500", "50k", "1.2M", "999"]
