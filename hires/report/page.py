"""The page of one run: what the templates in pages/ are filled with."""

from collections.abc import Iterable
import math

from markupsafe import Markup
from PIL import Image

from hires.objectives import SYSTEMS
from hires.report import gallery, panels, tables
from hires.report.charts import Axis, Chart, draw, number, thousands
from hires.report.gallery import Album
from hires.report.render import render
from hires.report.run import Grid, Run
from hires.report.verdict import judge, settings
from hires.training.monitor import duration

DRAWN = ("fakes", "refined")  # kinds of grids in which no picture of the data can be seen
KINDS = {"fakes": "Samples", "reconstructions": "Reconstructions", "chains": "Chains", "refined": "Samples refined by Langevin"}
NOTES = {"reconstructions": "each picture, and beside it what came back", "fakes": "the same latents at every moment"}
MEASURED = {"SWD": "swd", "FID": "fid", "RMSE": "reconstruction_rmse"}  # of the numbers on top, by shown name
BROAD = 1.8  # width over height from which a measure's picture takes a whole row
PIXELATED = 64  # side of a picture up to which its pixels are shown as squares


def report(run: Run, real_pictures: bool = True) -> tuple[str, Album]:
    """(HTML, its pictures) of a run; without `real_pictures` only what the generator alone drew is shown."""
    album, where = Album(), panels.axis(run)
    judging, describing = panels.measures(run)
    grids = {kind: those for kind, those in run.grids.items() if real_pictures or kind in DRAWN}
    content = {
        "run": run,
        "verdict": judge(run),
        "tiles": _tiles(run),
        "newest": _newest(run, grids, album),
        "drawn": _measures_pictures(run, album) if real_pictures else [],
        "strips": _strips(grids, album),
        "measures": tables.measures(run),
        "over_time": drawings(judging, where),
        "described": drawings(describing, where),
        "marked": bool(where.marks),
        "curves": drawings(panels.training(run), where),
        "levels": tables.levels(run),
        "losses": _losses(run),
        "checkpoints": [tables.checkpoint(one) for one in run.checkpoints],
        "settings": settings(run.plain),
        "environment": settings(run.environment),
    }
    if not real_pictures:
        album.left_out.append("pictures of the data, and all that show some (real_pictures=false)")
    return render("report.html", left_out=album.left_out, **content), album


def drawings(charts: Iterable[Chart], axis: Axis) -> list[dict]:
    """Charts as the templates take them."""
    return [{"title": c.title, "note": c.note, "svg": draw(c, axis), "legend": panels.legend(c)} for c in charts]


def _tiles(run: Run) -> list[tuple[str, str]]:
    """The numbers that a person asks for first."""
    tiles = [("images", thousands(run.images) + (f" of {thousands(run.end)}" if run.end > run.images else ""))]
    if run.statuses:
        last = run.statuses[-1]
        fading = f", fading in (α {last['alpha']:.2f})" if last.get("alpha", 1) < 1 else ""
        tiles += [("level", f"{last['resolution']}×{last['resolution']}{fading}")]
        tiles += [("training", duration(sum(seconds for _, seconds in run.seconds())))]
        tiles += [("s / 1,000 images", number(last.get("seconds_per_kimg", math.nan)))]
        line = SYSTEMS[run.system].LINE if run.system in SYSTEMS else {}
        tiles += [(short, number(last[name])) for short, name in line.items() if panels.series(run, name).points and name in last]
    tiles += [(short, number(value)) for short, name in MEASURED.items() if (value := panels.newest(run, name)) is not None]
    return tiles


def _newest(run: Run, grids: dict[str, list[Grid]], album: Album) -> list[dict]:
    """The last grid of each kind, whole; samples first, then the data that they should look like."""
    order = sorted(grids, key=lambda kind: [*DRAWN, "reals"].index(kind) if kind in (*DRAWN, "reals") else 9)
    found = []
    for kind in order:
        grid = grids[kind][-1]
        image = gallery.whole(album, grid)
        address = album.add(image, grid.path.name) if image else None
        if address:
            seen = f", {grid.images:,} images seen" if grid.images else ""
            title = "Pictures of the data" if kind == "reals" else KINDS.get(kind, kind)
            found.append(shown_picture(title, f"{grid.resolution}×{grid.resolution}{seen}", address, image, grid.resolution <= PIXELATED))
    return found


def shown_picture(title: str, note: str, address: Markup, image: Image.Image, pixelated: bool) -> dict:
    """A picture as the templates take it."""
    return {
        "title": title,
        "note": note,
        "src": address,
        "width": image.width,
        "height": image.height,
        "pixelated": pixelated,
        "broad": False,
    }


def _strips(grids: dict[str, list[Grid]], album: Album) -> list[dict]:
    """Each kind through time: corners of its grids, oldest first; the newest take the room first."""
    strips = []
    for kind in [*(k for k in KINDS if k in grids), *(k for k in grids if k not in KINDS and k != "reals")]:
        moments = gallery.chosen(grids[kind])
        if len(grids[kind]) < 2:
            continue
        cells = []
        for grid in reversed(moments):
            image = gallery.corner(album, grid)
            address = album.add(image, grid.path.name) if image else None
            if address:
                cells.append(
                    shown_picture(
                        thousands(grid.images), f"{grid.resolution}×{grid.resolution}", address, image, grid.resolution <= PIXELATED
                    )
                )
        of = f"{len(moments)} of {len(grids[kind])} moments; " if len(moments) < len(grids[kind]) else ""
        strips.append({"title": KINDS.get(kind, kind), "note": of + NOTES.get(kind, "as they grew"), "cells": cells[::-1]})
    return strips


def _measures_pictures(run: Run, album: Album) -> list[dict]:
    """What measures drew, at the newest moment that each name was drawn."""
    newest = {path.name: (images, path) for images, path in run.pictures}
    found = []
    for name, (images, path) in newest.items():
        image = album.open(path)
        image = gallery.fitted(image) if image else None
        address = album.add(image, f"{path.parent.name}/{name}") if image else None
        if address:
            one = shown_picture(path.stem.replace("_", " "), f"{images:,} images seen", address, image, False)
            found.append(one | {"broad": image.width > BROAD * image.height})
    return found


def _losses(run: Run) -> dict[str, str]:
    return SYSTEMS[run.system].LOSSES if run.system in SYSTEMS else {}
