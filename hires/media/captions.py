"""Text under pictures."""

from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK = (16, 16, 16), (235, 235, 235)


def bar_height(picture: int) -> int:
    """Height in pixels of the caption under a picture of that height: a twelfth, at least 16, always even as video wants it."""
    return 2 * max(8, round(picture / 24))


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, `size` pixels high; Pillow's own has neither arrows nor accents."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


@cache
def has_glyph(sign: str) -> bool:
    """Whether the font can show a character: what it lacks is drawn as it draws U+FFFF, which is not a character."""
    return sign.isprintable() and bytes(font(20).getmask(sign)) != bytes(font(20).getmask("\uffff"))


@lru_cache(maxsize=512)
def caption(text: str, width: int, height: int) -> np.ndarray:
    """A bar (height, width, 3), uint8 RGB, with `text` in its middle, its own middle left out where it is too long; not to be changed.

    Characters that the font lacks are shown as question marks.
    """
    bar = Image.new("RGB", (width, height), PAPER)
    draw, face = ImageDraw.Draw(bar), font(max(9, round(height * 0.6)))
    text = whole = "".join(sign if has_glyph(sign) else "?" for sign in text[:1000])
    kept = len(whole)
    while kept > 0 and draw.textlength(text, face) > width - 4:
        kept -= 1
        text = f"{whole[: (kept + 1) // 2]}…{whole[len(whole) - kept // 2 :]}"
    draw.text((width / 2, height / 2), text, fill=INK, font=face, anchor="mm")
    pixels = np.array(bar)
    pixels.setflags(write=False)
    return pixels
