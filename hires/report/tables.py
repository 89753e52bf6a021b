"""Tables of one run: its measures, its schedule with what each level took, its checkpoints."""

import math
import statistics
import time

from hires.report.charts import number
from hires.report.measures import columned, flat, interval, is_file, shown
from hires.report.run import Run
from hires.training.monitor import duration

EVALUATIONS = 6  # newest ones in the table of measures


def measures(run: Run) -> dict:
    """The table of measures, a column an evaluation, the newest last; those that have columns of their own are in `tables`."""
    records = run.evaluations[-EVALUATIONS:]
    apart = tuple(start for _, record in records for start in columned(record))
    columns = [{name: value for name, value in flat(record) if not name.startswith(apart) and not is_file(value)} for _, record in records]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, [(shown(column.get(name, "")), isinstance(column.get(name), str)) for column in columns]) for name in names]
    heads = []
    for images, record in records:
        count, data, side = (record.get(name, "?") for name in ("images", "data", "resolution"))
        prior = ", samples from the codes' Gaussian" * (record.get("prior") == "aggregate")
        heads.append((f"{images:,} images seen", f"{count} pictures of {data}, {side}×{side}{prior}"))
    newest = {start: (images, record) for images, record in records for start in columned(record)}
    tables = [_own_table(start, images, record) for start, (images, record) in newest.items()]
    return {"heads": heads, "rows": rows, "older": len(run.evaluations) - len(records), "tables": tables}


def _own_table(start: str, images: int, record: dict) -> dict:
    """A measure with columns: what it was measured on in words, and its rows."""
    heads = columned(record)[start]
    mine = {name.removeprefix(start): value for name, value in record.items() if name.startswith(start) and name != f"{start}columns"}
    columns = {name: value for name, value in mine.items() if isinstance(value, list) and len(value) == len(heads)}
    rows = [(name, [shown(interval(one)) for one in value]) for name, value in columns.items()]
    notes = {name: shown(value) for name, value in mine.items() if not isinstance(value, list) and not is_file(value)}
    title = f"{start.strip('_').capitalize()}, {images:,} images seen"
    return {"title": title, "note": record[f"{start}columns"], "heads": heads, "rows": rows, "notes": notes}


def levels(run: Run) -> list[dict]:
    """The schedule, a row a level, and what each level took."""
    if not run.schedule:
        return []
    rows = []
    for level in run.schedule.levels:
        here = [(record, seconds) for record, seconds in run.seconds() if record["resolution"] == level.resolution]
        speeds = [record["seconds_per_kimg"] for record, _ in here if record.get("seconds_per_kimg")]
        rows.append(
            {
                "resolution": level.resolution,
                "images": f"{level.start:,}–{level.end:,}",
                "fade": f"{level.fade:,}" if level.fade else "–",
                "batch": level.config.batch,
                "lr": f"{level.config.lr:g}",
                "weights": {n: f"{w:g}" for n, w in run.config.objective.weights_at(level.resolution).items()} if run.config else {},
                "speed": number(statistics.median(speeds)) if speeds else "–",
                "took": duration(sum(seconds for _, seconds in here)) if here else "–",
                "memory": number(max((record.get("memory_gb", math.nan) for record, _ in here), default=math.nan)),
                "state": "done" if run.images >= level.end else "here" if run.images > level.start or here else "ahead",
            }
        )
    return rows


def checkpoint(one) -> dict:
    """A row of the table of checkpoints."""
    m, whole = one.manifest, "whole" if one.usable else "set aside"
    found = {"name": f"{m['images']:,}" if one.usable else one.path.name, "state": one.problem or whole, "good": one.usable}
    if not m:
        return found | dict.fromkeys(("level", "size", "processes", "written"), "")
    phase = f", fading in (α {m.get('alpha', 1):.2f})" if m.get("fading") else ""
    return found | {
        "level": f"{m['resolution']}×{m['resolution']}{phase}",
        "size": f"{sum(entry['bytes'] for entry in m['files']) / 1e6:,.1f} MB",
        "processes": m.get("world_size", ""),
        "written": time.strftime("%Y-%m-%d %H:%M", time.localtime(m["time"])) if "time" in m else "",
    }
