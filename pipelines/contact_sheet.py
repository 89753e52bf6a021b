"""A few pictures of a prepared data set at every level, on one sheet."""

from PIL import Image, ImageDraw, ImageFont

from .codecs import decode
from .decode_rate import spread, stored
from .errors import DataError
from .pyramid import image_of
from .shards import Shards

CELL, GAP, MARGIN = 128, 6, 20  # pixels; a power of two, so that small pictures' pixels are all of one size
LABEL, HEAD, FOOT = 132, 64, 24  # of the column of labels, of the title, and of a line of keys
INK, FAINT, PAPER, EMPTY = (32, 32, 36), (118, 118, 126), (255, 255, 255), (232, 224, 224)


def contact_sheet(shards: Shards, columns: int = 8) -> Image.Image:
    """RGB: a row of the same training pictures for each level, smallest first, and a row of held-out ones at the top level.

    Small pictures are enlarged pixel by pixel, large ones reduced, all to one size. A picture that cannot be read is a crossed-out cell.
    """
    rows = [(level, "train") for level in shards.levels]
    if shards.count("holdout"):
        rows.append((shards.levels[-1], "holdout"))
    width = 2 * MARGIN + LABEL + columns * (CELL + GAP) - GAP
    keys_below = {len(shards.levels) - 1, len(rows) - 1}  # under the last row of each split
    height = 2 * MARGIN + HEAD + len(rows) * (CELL + GAP) + len(keys_below) * FOOT
    sheet = Image.new("RGB", (width, height), PAPER)
    draw, large, small = ImageDraw.Draw(sheet), ImageFont.load_default(22), ImageFont.load_default(13)
    draw.text((MARGIN, MARGIN), _fitted(shards.root, large, width - 2 * MARGIN), INK, large)
    counts = f"{shards.count('train'):,} pictures to train on, {shards.count('holdout'):,} held out"
    draw.text((MARGIN, MARGIN + 32), counts, FAINT, small)
    y = MARGIN + HEAD
    for number, (level, split) in enumerate(rows):
        chosen = spread(shards, split, columns)
        label = "held out" if split == "holdout" else f"{level}x{level}"
        draw.text((MARGIN, y + CELL // 2 - 22), label, INK, large)
        below = f"{level}x{level}" if split == "holdout" else shards.codec(level).name
        draw.text((MARGIN, y + CELL // 2 + 6), below, FAINT, small)
        for column, index in enumerate(chosen):
            sheet.paste(_cell(shards, level, split, index), (MARGIN + LABEL + column * (CELL + GAP), y))
        y += CELL + GAP
        if number in keys_below:
            for column, key in enumerate(_keys(shards, split, chosen)):
                draw.text((MARGIN + LABEL + column * (CELL + GAP), y - 1), _fitted(key, small, CELL), FAINT, small)
            y += FOOT
    return sheet


def _cell(shards: Shards, level: int, split: str, index: int) -> Image.Image:
    try:
        image = image_of(decode(stored(shards, level, split, index), level, shards.channels)).convert("RGB")
    except (DataError, ValueError):
        cell = Image.new("RGB", (CELL, CELL), EMPTY)
        draw = ImageDraw.Draw(cell)
        draw.line([(0, 0), (CELL, CELL)], FAINT, 2)
        draw.line([(0, CELL), (CELL, 0)], FAINT, 2)
        return cell
    return image.resize((CELL, CELL), Image.Resampling.NEAREST if level < CELL else Image.Resampling.LANCZOS)


def _keys(shards: Shards, split: str, chosen: list[int]) -> list[str]:
    try:
        keys = shards.keys(split)
        return [keys[index] for index in chosen]
    except (OSError, ValueError, IndexError, DataError):  # reported elsewhere: a sheet without them shows the pictures all the same
        return []


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The end of a text, which tells more than its beginning, as far as it fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text
