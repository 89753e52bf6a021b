"""The page of several runs beside each other: last grids, curves over each other, measures with the best marked, settings that differ."""

from collections.abc import Sequence
import math

from hires.report import gallery, panels
from hires.report.charts import Axis, Chart, Series, number, thousands
from hires.report.gallery import Album
from hires.report.measures import PLACES, best, direction, flat, is_file, shown, single, stands_on
from hires.report.page import DRAWN, KINDS, PIXELATED, drawings, shown_picture
from hires.report.render import render
from hires.report.run import Grid, Run
from hires.report.verdict import judge, settings
from hires.training.monitor import duration

MACHINE = (("device", "device"), ("processes", "world_size"), ("torch", "torch"), ("commit", "commit"))
CUT = 24  # characters of these


def compare(runs: Sequence[Run], real_pictures: bool = True) -> tuple[str, Album]:
    """(HTML, its pictures) of two runs or more; of each the newest grids and the newest evaluation."""
    album, names = Album(), labels(runs)
    end = max(run.images for run in runs)
    same = {str([(x.start, x.fade, x.end) for x in run.schedule.levels]) if run.schedule else "" for run in runs}
    where = Axis(end, panels.axis(runs[0]).levels if len(same) == 1 else [])
    content = {
        "names": names,
        "verdicts": [judge(run) for run in runs],
        "facts": _facts(runs),
        "grids": _grids(runs, names, album, real_pictures),
        "same_levels": len(same) == 1,
        "measures": _measures(runs),
        "over_time": drawings(_over_time(runs, names), where),
        "curves": drawings(_curves(runs, names), where),
        "differences": _differences(runs),
    }
    if not real_pictures:
        album.left_out.append("grids that show pictures of the data (real_pictures=false)")
    return render("compare.html", left_out=album.left_out, **content), album


def labels(runs: Sequence[Run]) -> list[str]:
    """Each run's folder name, with as much of its path before it as tells it from the others."""
    paths = [run.folder.resolve().parts for run in runs]
    for depth in range(1, max(map(len, paths)) + 1):
        found = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(found)) == len(found):
            return found
    return [str(run.folder) for run in runs]


def _facts(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    def level(run: Run) -> str:
        return "{0}×{0}".format(run.statuses[-1]["resolution"]) if run.statuses else "–"

    def speed(run: Run) -> str:
        return number(run.statuses[-1].get("seconds_per_kimg", math.nan)) if run.statuses else "–"

    return [
        ("system", [run.system or "–" for run in runs]),
        ("images", [thousands(run.images) + (f" of {thousands(run.end)}" if run.end else "") for run in runs]),
        ("level", [level(run) for run in runs]),
        ("training took", [duration(sum(seconds for _, seconds in run.seconds())) if run.statuses else "–" for run in runs]),
        ("s / 1,000 images at its end", [speed(run) for run in runs]),
        *((title, [str(run.environment.get(name, "–"))[:CUT] for run in runs]) for title, name in MACHINE),
    ]


def _grids(runs: Sequence[Run], names: Sequence[str], album: Album, real_pictures: bool) -> list[dict]:
    """Kinds of grids that a run has, samples first; of each kind the runs' last ones."""
    kinds = dict.fromkeys([*DRAWN, *(kind for run in runs for kind in run.grids if real_pictures and kind != "reals")])
    found = []
    for kind in kinds:
        shown_ones = []
        for run, name in zip(runs, names, strict=True):
            if kind in run.grids and (one := _grid(run.grids[kind][-1], name, album)):
                shown_ones.append(one)
        if shown_ones:
            found.append({"kind": KINDS.get(kind, kind), "pictures": shown_ones})
    return found


def _grid(grid: Grid, name: str, album: Album) -> dict | None:
    image = gallery.whole(album, grid)
    address = album.add(image, f"{name}/{grid.path.name}") if image else None
    note = f"{grid.resolution}×{grid.resolution}" + (f", {grid.images:,} images seen" if grid.images else "")
    return shown_picture(name, note, address, image, grid.resolution <= PIXELATED) if address else None


def _measures(runs: Sequence[Run]) -> dict:
    """The newest evaluations, a column a run; the best of those measured alike are marked."""
    newest = [run.evaluations[-1] if run.evaluations else (0, {}) for run in runs]
    records = [record for _, record in newest]
    columns = [dict(flat(record)) for record in records]
    alike = [str([record.get(place) for place in PLACES]) for record in records]
    rows = []
    for name in dict.fromkeys(name for column in columns for name, value in column.items() if not is_file(value)):
        found = best({str(k): value for k, c in enumerate(columns) if (value := single(c.get(name))) is not None}, direction(name))
        if len({alike[k] + str(stands_on(records[k], name)) for k, column in enumerate(columns) if name in column}) > 1:
            found = set()
        cells = [(shown(c.get(name, "")), isinstance(c.get(name), str), str(k) in found) for k, c in enumerate(columns)]
        rows.append((name, direction(name), cells))
    places = [(place, [shown(record[place]) if place in record else "–" for record in records]) for place in PLACES]
    heads = [("images seen", [f"{images:,}" if record else "–" for images, record in newest]), *places]
    differ = len({key for key, record in zip(alike, records, strict=True) if record}) > 1
    shared = [row for row in rows if sum(bool(value) for value, _, _ in row[2]) > 1]
    alone = [row for row in rows if row not in shared]
    return {"heads": heads, "rows": shared, "alone": alone, "differ": differ}


def _curves(runs: Sequence[Run], names: Sequence[str]) -> list[Chart]:
    """A chart a measure of the progress lines that at least two runs have, a curve a run."""
    charts: dict[str, Chart] = {}
    for place, run in enumerate(runs):
        for chart in panels.training(run):
            for one in chart.series:
                note = chart.title if chart.title != one.name else ""
                whole = charts.setdefault(one.name, Chart(one.name, [], note, chart.wanted, chart.linear))
                whole.series.append(Series(names[place], one.points, place))
    return [chart for chart in charts.values() if len(chart.series) > 1]


def _over_time(runs: Sequence[Run], names: Sequence[str]) -> list[Chart]:
    """Measures that judge, of runs that took them at two moments or more."""
    charts: dict[str, Chart] = {}
    for place, run in enumerate(runs):
        for chart in panels.measures(run)[0]:
            whole = charts.setdefault(chart.title, Chart(chart.title, [], chart.note, chart.wanted))
            own = [one for one in chart.series if one.name in (chart.title, chart.title + panels.TRAINED)]
            whole.series += [Series(names[place] + one.name.removeprefix(chart.title), one.points, place) for one in own]
    return list(charts.values())


def _differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs, those last that not all have ('–'); levels that none of them reaches are left out."""
    found = [settings(run.plain) for run in runs]
    last = max((run.schedule.levels[-1].resolution for run in runs if run.schedule), default=0)
    names = dict.fromkeys(name for one in found for name in one if name != "run" and not (last and _level(name) > last))
    rows = [(name, [one.get(name, "–") for one in found]) for name in names]
    return sorted(((name, values) for name, values in rows if len(set(values)) > 1), key=lambda row: "–" in row[1])


def _level(name: str) -> int:
    """The resolution in schedule.levels.64.lr, 0 in other settings."""
    parts = name.split(".")
    return int(parts[2]) if parts[:2] == ["schedule", "levels"] and len(parts) > 2 and parts[2].isdecimal() else 0
