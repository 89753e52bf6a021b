"""Pictures for a page: grids taken apart into their cells, put together small, and encoded into a limited number of bytes."""

import base64
from dataclasses import dataclass, field
import io
from itertools import pairwise
import math
from pathlib import Path

from markupsafe import Markup
import numpy as np
from PIL import Image

from hires.ground.images import READABLE
from hires.report.run import Grid

LIMIT = 8_000_000  # bytes of all pictures on a page, as they stand in it
SMALL = 60_000  # bytes up to which a picture stays PNG, without loss
WIDEST = 1100  # pixels of a picture's longer side
GAP = 2  # pixels between cells: in the files, and here
STRIP_CELLS = 4  # rows and columns of a grid that a strip shows
STRIP_SIDE = 128  # pixels of a strip's cell at most
MOMENTS = 14  # of a strip


@dataclass
class Album:
    """The pictures of one page, as data: addresses, up to LIMIT bytes; `left_out` names what did not fit or was no picture."""

    left_out: list[str] = field(default_factory=list)
    used: int = 0

    def add(self, image: Image.Image, name: str) -> Markup | None:
        """The picture's address; None where there is no more room."""
        out = io.BytesIO()
        image.save(out, "PNG", optimize=True)
        kind = "png"
        if out.tell() > SMALL:
            lossy = io.BytesIO()
            image.save(lossy, "JPEG", quality=88, subsampling=0)
            if lossy.tell() < 0.7 * out.tell():
                out, kind = lossy, "jpeg"
        text = base64.b64encode(out.getvalue()).decode()
        if self.used + len(text) > LIMIT:
            self.left_out.append(f"{name}: the page has no more room for it ({LIMIT / 1e6:g} MB of pictures)")
            return None
        self.used += len(text)
        return Markup(f"data:image/{kind};base64,{text}")

    def open(self, path: Path) -> Image.Image | None:
        """A file's picture; None, and a line, where it has none."""
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            self.left_out.append(f"{path.name}: not readable as a picture ({' '.join(str(error).split())[:120]})")
            return None


def cells(image: Image.Image, resolution: int) -> np.ndarray | None:
    """The cells of a grid of ground.images.save_grid in their own pixels, uint8 (rows, columns, r, r, 3); None where it is none."""
    factor = math.ceil(READABLE / resolution)
    side = resolution * factor
    if image.size == (side, side):  # a single picture has no frame
        return np.asarray(image)[::factor, ::factor][None, None]
    (columns, rest), (rows, rest_down) = divmod(image.width - GAP, side + GAP), divmod(image.height - GAP, side + GAP)
    if rest or rest_down or columns < 1 or rows < 1:
        return None
    found = np.asarray(image)[GAP:, GAP:].reshape(rows, side + GAP, columns, side + GAP, 3)[:, :side, :, :side]
    return found[:, ::factor, :, ::factor].transpose(0, 2, 1, 3, 4)


def sheet(found: np.ndarray, most: int) -> Image.Image:
    """Cells (rows, columns, r, r, 3) as one picture, enlarged to 32 pixels or shrunk so that a row is at most `most` wide."""
    rows, columns, side = found.shape[:3]
    wanted = side * math.ceil(32 / side) if side < 32 else max(1, min(side, most // columns))
    grey = Image.new("RGB", (columns * (wanted + GAP) - GAP, rows * (wanted + GAP) - GAP), (128, 128, 128))
    for row in range(rows):
        for column in range(columns):
            if not found[row, column].any():  # a place that the grid left empty
                continue
            cell = Image.fromarray(np.ascontiguousarray(found[row, column]))
            if wanted != side:
                cell = cell.resize((wanted, wanted), Image.Resampling.NEAREST if wanted > side else Image.Resampling.LANCZOS)
            grey.paste(cell, (column * (wanted + GAP), row * (wanted + GAP)))
    return grey


def whole(album: Album, grid: Grid) -> Image.Image | None:
    """A grid as large as a page shows it."""
    image = album.open(grid.path)
    if image is None:
        return None
    found = cells(image, grid.resolution)
    return fitted(image) if found is None else sheet(found, WIDEST)


def corner(album: Album, grid: Grid) -> Image.Image | None:
    """The first cells of a grid: 4x4, or whole rows where a row is longer than the grid is high (pairs, chains)."""
    image = album.open(grid.path)
    if image is None:
        return None
    found = cells(image, grid.resolution)
    if found is None:
        return fitted(image, STRIP_CELLS * STRIP_SIDE)
    columns = found.shape[1] if found.shape[1] > found.shape[0] else STRIP_CELLS
    found = found[:STRIP_CELLS, :columns]
    return sheet(found, STRIP_SIDE * found.shape[1])


def fitted(image: Image.Image, most: int = WIDEST) -> Image.Image:
    """A picture no longer on any side than `most` pixels."""
    if max(image.size) > most:
        image = image.copy()
        image.thumbnail((most, most), Image.Resampling.LANCZOS)
    return image


def chosen(grids: list[Grid], most: int = MOMENTS) -> list[Grid]:
    """At most `most` moments of a strip, in order: the last, the first, each level's last while there is room, others between."""
    if len(grids) <= most:
        return list(grids)
    last = {grid.resolution: place for place, grid in enumerate(grids)}
    picked = set([len(grids) - 1, 0, *reversed(last.values())][:most])
    while len(picked) < most:
        before, after = max(pairwise(sorted(picked)), key=lambda ends: ends[1] - ends[0])
        picked.add((before + after) // 2)
    return [grids[place] for place in sorted(picked)]
