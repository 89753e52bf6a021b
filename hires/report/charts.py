"""Curves against images seen, as SVG that takes its colours from the page: levels named, fade-ins shaded, logarithms where they help."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
import math
import statistics

from markupsafe import Markup

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 232, 50, 10, 22, 24  # of the drawing, in its own units
COLUMNS = 180  # of a curve with more than twice as many points, the lowest and the highest of each column are drawn
WIDE = 10.0  # largest over smallest value from which an axis of positive values is logarithmic
WILD = 100.0  # largest over median size from which an axis of any sign is logarithmic outside that median
FEWEST, MOST = 3, 6  # round values on an axis


@dataclass
class Series:
    """One curve; values that are not numbers leave a gap."""

    name: str
    points: list[tuple[float, float]]  # (images, value)
    colour: int = -1  # of the page's eight; -1 = by its place

    @property
    def last(self) -> float:
        """The last value, NaN where there is none."""
        return self.points[-1][1] if self.points else math.nan


@dataclass
class Chart:
    """Curves that share their axes."""

    title: str
    series: list[Series]
    note: str = ""  # what to look for
    wanted: float | None = None  # a value to compare with
    linear: bool = False  # whatever the values


@dataclass
class Axis:
    """Images from 0 to `end`, the levels along them as (start, fade's end, end, name), and marks (images, what)."""

    end: float
    levels: Sequence[tuple[float, float, float, str]] = field(default_factory=list)
    marks: Sequence[tuple[float, str]] = field(default_factory=list)

    def x(self, images: float) -> float:
        """Where it lies in the drawing."""
        return LEFT + (WIDTH - LEFT - RIGHT) * images / max(self.end, 1)


def number(value: float, digits: int = 3) -> str:
    """A number for a person: '0.0304', '−2.14', '1.2e+06'; '–' where it is not finite."""
    return f"{value:.{digits}g}".replace("-", "−") if math.isfinite(value) else "–"


def thousands(images: float) -> str:
    """'500', '50k', '1.2M'."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if images >= unit:
            return f"{images / unit:.4g}{name}"
    return f"{images:.4g}"


def scale(values: Sequence[float], linear: bool = False) -> tuple[Callable[[float], float], str]:
    """(the axis' function, its name) for values, at least one, all finite; 'log scale both ways' is linear below their median size."""
    low, high = min(values), max(values)
    if not linear and low > 0 and high / low > WIDE:
        return math.log10, "log scale"
    usual = statistics.median(map(abs, values))
    if not linear and usual > 0 and max(abs(low), abs(high)) / usual > WILD:
        return lambda v: math.asinh(v / usual), "log scale both ways"
    return float, ""


def ticks(low: float, high: float, name: str) -> list[float]:
    """Round values between `low` and `high` for the axis of that name, three to six of them where there is room."""
    if name == "log scale":
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1,) if high / low > 300 else (1, 3) if high / low > 30 else (1, 2, 5)
        found = [digit * 10.0**power for power in decades for digit in steps if low <= digit * 10.0**power <= high]
        return found[:: math.ceil(len(found) / MOST)] if found else [low, high]
    if name:
        top = max(abs(low), abs(high))
        sizes = [10.0 ** (math.floor(math.log10(top)) - 2 * k) for k in range(2)]
        return [v for v in (-sizes[0], -sizes[1], 0.0, sizes[1], sizes[0]) if low <= v <= high]
    size = 10.0 ** math.ceil(math.log10(high - low or abs(high) or 1.0))
    for step in (size * m for m in (1, 0.5, 0.25, 0.2, 0.1, 0.05, 0.025, 0.02)):  # the coarsest that gives three values
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first >= FEWEST - 1:
            break
    return [k * step for k in range(first, last + 1)]


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points in order, of many those that keep every peak: the lowest and the highest in each of 180 columns, and the ends."""
    if len(points) <= 2 * COLUMNS:
        return list(points)
    first, last = points[0][0], points[-1][0]
    columns: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        columns.setdefault(int((point[0] - first) / (last - first or 1) * COLUMNS), []).append(point)
    kept = {points[0], points[-1]}
    for those in columns.values():
        kept |= {min(those, key=lambda p: p[1]), max(those, key=lambda p: p[1])}
    return sorted(kept)


def draw(chart: Chart, axis: Axis) -> Markup:
    """The chart as SVG; its legend, with last values, is the page's."""
    values = [v for one in chart.series for _, v in one.points if math.isfinite(v)]
    if not values:
        return Markup('<p class="quiet">no finite value</p>')
    if chart.wanted is not None:
        values = [*values, chart.wanted]
    of, name = scale(values, chart.linear)
    low, high = min(values), max(values)
    spread = of(high) - of(low) or abs(of(high)) or 1.0
    bottom, top = of(low) - 0.05 * spread, of(high) + 0.05 * spread

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (of(value) - bottom) / (top - bottom)

    label = f"{chart.title}: " + ", ".join(f"{one.name} ends at {number(one.last)}" for one in chart.series)
    parts = [Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, label)]
    parts += _levels(axis)
    for value in ticks(low, high, name):
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), "rule"))
        parts.append(_text(LEFT - 5, y(value) + 4, number(value), "end"))
    if chart.wanted is not None:
        parts.append(_line(LEFT, y(chart.wanted), WIDTH - RIGHT, y(chart.wanted), "wanted"))
    parts += [_line(axis.x(at), TOP, axis.x(at), HEIGHT - BOTTOM, f"mark {what}") for at, what in axis.marks]
    for place, one in enumerate(chart.series):
        colour = (place if one.colour < 0 else one.colour) % 8
        parts += _curve(one.points, colour, axis.x, y)
    if name:
        parts.append(_text(LEFT - 5, TOP - 8, "log" if name == "log scale" else "±log", "end"))
    return Markup("").join([*parts, Markup("</svg>")])


def _curve(points: Iterable[tuple[float, float]], colour: int, x: Callable, y: Callable) -> list[Markup]:
    """Lines between neighbours that are numbers, and dots of those that have no such neighbour."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            stretches[-1].append(point)
        else:
            stretches.append([])
    lines = "".join("M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in thinned(one)) for one in stretches if len(one) > 1)
    dots = [(x(one[0][0]), y(one[0][1])) for one in stretches if len(one) == 1]
    drawn = [Markup('<path class="curve c{}" d="{}"/>').format(colour, lines)] if lines else []
    return drawn + [Markup('<circle class="c{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(colour, *dot) for dot in dots]


def _levels(axis: Axis) -> list[Markup]:
    """Shaded fade-ins, a line where each level begins, its name where there is room, and images below."""
    parts, free = [], math.inf
    for start, faded, _, _ in axis.levels:
        if start < axis.end and faded > start:
            left, right = axis.x(start), axis.x(min(faded, axis.end))
            shade = '<rect class="fade" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>'
            parts.append(Markup(shade).format(left, TOP, right - left, HEIGHT - TOP - BOTTOM))
    for start, _, end, name in reversed(axis.levels):  # of levels too short for their names the later ones are named
        if start >= axis.end:
            continue
        left, right = axis.x(start), axis.x(min(end, axis.end))
        if start:
            parts.append(_line(left, TOP - 4, left, HEIGHT - BOTTOM, "level"))
        middle, half = (left + right) / 2, 3.6 * len(name)
        if middle + half < free:
            parts.append(_text(middle, TOP - 8, name, "middle"))
            free = middle - half - 2
    for images in ticks(0, max(axis.end, 1), ""):
        place = axis.x(images)
        edge = place + 18 > WIDTH
        parts.append(_text(WIDTH - 1 if edge else place, HEIGHT - 8, thousands(images), "end" if edge else "middle"))
        parts.append(_line(place, HEIGHT - BOTTOM, place, HEIGHT - BOTTOM + 4, "rule"))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
