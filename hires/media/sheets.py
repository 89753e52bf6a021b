"""Sheets of strips: each strip a few pictures of one thing side by side with a caption, under a title that says what is seen."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hires.errors import HiresError
from hires.ground.files import whole_file
from hires.ground.images import enlarge, to_uint8

CELL, GAP, MARGIN = 128, 4, 16  # pixels; a cell is at least so large
TITLE, LINE = 30, 20  # heights of the title, and of a line of heads or captions
WIDEST = 1600  # pixels up to which strips lie side by side, about
INK, FAINT, PAPER = (32, 32, 36), (104, 104, 112), (255, 255, 255)


def save_sheet(path: str | Path, strips: Tensor, captions: list[str], heads: list[str], title: str, columns: int = 0) -> None:
    """Write strips (N, K, C, h, w), float in [-1, 1], C 1 or 3, as one RGB PNG: `heads` (K) above columns, `captions` (N) below strips.

    Strips lie in `columns`, unless given as many as 1600 pixels have room for. Pictures below 128 pixels are enlarged pixel by pixel, none
    is reduced; text that has no room is cut. The file appears when it is whole. Raises HiresError for no strips, another number of
    channels, or a file that cannot be written.
    """
    if strips.ndim != 5 or 0 in strips.shape or strips.shape[2] not in (1, 3):
        raise HiresError(f"{path}: strips of shape {tuple(strips.shape)}, wanted (N, K, 1 or 3, h, w) and N, K at least 1")
    cells = enlarge(to_uint8(strips.detach().flatten(0, 1)), CELL).cpu().expand(-1, 3, -1, -1).unflatten(0, strips.shape[:2])
    count, across, _, height, width = cells.shape
    strip, row = across * (width + GAP) - GAP, height + LINE + GAP
    columns = min(count, columns or max(1, (WIDEST + MARGIN) // (strip + MARGIN)))
    rows = -(-count // columns)
    size = (columns * (strip + MARGIN) + MARGIN, 2 * MARGIN + TITLE + LINE + rows * row)
    sheet, small = Image.new("RGB", size, PAPER), ImageFont.load_default(13)
    draw, large = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    draw.text((MARGIN, MARGIN), _fitted(title, large, size[0] - 2 * MARGIN), INK, large)
    for i in range(count):
        x, y = MARGIN + (i % columns) * (strip + MARGIN), MARGIN + TITLE + LINE + (i // columns) * row
        for k in range(across):
            left = x + k * (width + GAP)
            if i < columns:
                draw.text((left, y - LINE), _fitted(heads[k], small, width), FAINT, small)
            sheet.paste(Image.fromarray(cells[i, k].permute(1, 2, 0).contiguous().numpy()), (left, y))
        draw.text((x, y + height + 2), _fitted(captions[i], small, strip), INK, small)
    with whole_file(Path(path)) as part:
        sheet.save(part, format="PNG")


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """`text` without the part of its beginning that has no room: of a path and its figures the end tells most."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"…{text}") > width:
        text = text[1:]
    return f"…{text}"
