"""Which curves a run has, which of them share a chart, and what a person looks for in each (docs/training.md says more)."""

from collections.abc import Sequence
import math

from hires.report.charts import Axis, Chart, Series, number
from hires.report.measures import PLACES, direction, flat, single
from hires.report.run import Run

# (title, measures, what to look for, the value wanted); what no row names gets a chart of its own
PANELS: Sequence[tuple[str, tuple[str, ...], str, float | None]] = (
    ("Losses", ("loss_energy", "loss_variational", "loss_generator", "loss"), "players play against each other: none need fall", None),
    ("Energies", ("energy_real", "energy_fake"), "lower is more like the data", None),
    ("Gap and size of the energy", ("energy_gap", "energy_size"), "flat over a level; growing several-fold a level, it runs away", None),
    ("Balance ρ", ("rho", "rho_z"), "the energy's pull on the generator over the reconstruction's", None),
    ("Reconstruction error R", ("R",), "falls, and steps up where a level begins", None),
    ("Posterior", ("K", "N", "prior"), "nats a latent dimension: K near the prior's is small, N is the sleep term", None),
    ("Log-variance of the posterior", ("logvar",), "", None),
    ("Diversity", ("diversity",), "spread of the samples over that of the data: 1 is right", 1.0),
    ("Slope of the energy", ("energy_slope", "energy_slope_z", "chain_slope"), "steady", None),
    ("Penalties", ("r1", "score_square"), "", None),
    ("Entropies of the experts", ("entropy_real", "entropy_fake"), "at most ln 2", math.log(2)),
    ("Log ratio", ("ratio_real", "ratio_fake"), "data to model, as U and H see it", None),
    ("Learning rate", ("lr",), "", None),
    ("Seconds per 1,000 images", ("seconds_per_kimg",), "", None),
    ("Peak memory (GB)", ("memory_gb",), "of rank 0", None),
)
NO_MEASURES = {"images", "resolution", "alpha", "batch", "eta_seconds", "alarm"}
BESIDE = ("_floor", "_real")  # ends of names: the same of real pictures, drawn in one chart
TRAINED = " in training"  # what monitor.measures found: fewer pictures, so not comparable with hires evaluate
LINEAR = ("lr", "memory_gb")


def axis(run: Run) -> Axis:
    """The run's images so far, its levels, and where it went back or an alarm was raised."""
    marks = [(event["images"], "back") for event in run.events if "rollback" in event]
    marks += [(record["images"], "alarm") for record in run.statuses if record.get("alarm")]
    levels = [(x.start, x.start + x.fade, x.end, str(x.resolution)) for x in run.schedule.levels] if run.schedule else []
    return Axis(max(run.images, 1), levels, marks)


def training(run: Run) -> list[Chart]:
    """Charts of what the progress lines hold."""
    names = list(dict.fromkeys(name for record in run.statuses for name, value in record.items() if _is_number(value)))
    left = [name for name in names if name not in NO_MEASURES]
    charts = []
    for title, members, note, wanted in PANELS:
        there = [name for name in members if name in left]
        if there:
            charts.append(Chart(title, [series(run, name) for name in there], note, wanted, there[0] in LINEAR))
    named = {name for _, members, _, _ in PANELS for name in members}
    others = [Chart(name, [series(run, name)]) for name in left if name not in named]
    speed = next((k for k, chart in enumerate(charts) if chart.title == "Learning rate"), len(charts))
    return [*charts[:speed], *others, *charts[speed:]]


def series(run: Run, name: str) -> Series:
    """One measure of the progress lines."""
    return Series(name, [(record["images"], record[name]) for record in run.statuses if _is_number(record.get(name))])


def measured(run: Run) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Points (images, value) of every measure that can be compared, by (name, "" of hires evaluate or " in training").

    Between neighbours that do not compare (other levels, data, numbers of pictures) there is a NaN.
    """
    found: dict[tuple[str, str], dict[int, tuple[float, object]]] = {}
    events = [event for event in run.events if isinstance(event.get("measures"), dict)]
    taken = [(event["images"], [event.get("level")], event["measures"], TRAINED) for event in events]
    for images, record in run.evaluations:
        taken.append((images, [*(record.get(place) for place in PLACES), record.get("prior") == "aggregate"], record, ""))
    for images, place, record, source in taken:
        for name, value in flat(record):
            if (one := single(value)) is not None:
                found.setdefault((name, source), {})[images] = one, place
    return {key: _parted(sorted(points.items(), key=lambda point: point[0])) for key, points in found.items()}


def _parted(points: list[tuple[int, tuple[float, object]]]) -> list[tuple[float, float]]:
    parted: list[tuple[float, float]] = []
    for k, (images, (value, place)) in enumerate(points):
        if k and points[k - 1][1][1] != place:
            parted.append((images, math.nan))
        parted.append((images, value))
    return parted


def measures(run: Run) -> tuple[list[Chart], list[Chart]]:
    """Charts of measures that were taken at two moments or more and changed: (those that judge, with their floors; those that describe)."""
    charts, words = [], {"lower": "lower is better", "higher": "higher is better", "one": "1 is right"}
    found = measured(run)
    names = list(dict.fromkeys(name for name, _ in found))
    beside = {name: [f"{name}{end}" for end in BESIDE if f"{name}{end}" in names] for name in names}
    for name in names:
        own = [{v for _, v in found.get((name, source), []) if math.isfinite(v)} for source in ("", TRAINED)]
        if max(map(len, own)) > 1 and not any(name in those for those in beside.values()):
            way, keys = direction(name), [(one, source) for one in (name, *beside[name]) for source in ("", TRAINED)]
            curves = [Series("".join(key), found[key]) for key in keys if key in found]
            charts.append(Chart(name, curves, words.get(way, ""), 1.0 if way == "one" else None))
    judging = [chart for chart in charts if direction(chart.title)]
    return judging, [chart for chart in charts if not direction(chart.title)]


def newest(run: Run, name: str) -> float | None:
    """A measure's last value, of training or of hires evaluate, whichever saw more images; None where there is none."""
    ends = [points[-1] for (one, _), points in measured(run).items() if one == name]
    return max(ends, key=lambda point: point[0])[1] if ends else None


def legend(chart: Chart) -> list[tuple[int, str, str]]:
    """(colour, name, last value) of each curve."""
    return [((k if one.colour < 0 else one.colour) % 8, one.name, number(one.last)) for k, one in enumerate(chart.series)]


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
