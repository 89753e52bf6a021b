"""What is taken for a picture, whatever its name: a few formats of pictures, of a size that can be held."""

import io
import subprocess

from PIL import Image
import pytest

from pipelines import DataError
from pipelines.codecs import decode
from pipelines.sources.base import decode_picture

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_program_is_started_for_a_picture(monkeypatch, one_line):
    """Pillow hands PostScript to Ghostscript, and a picture from anywhere may be PostScript under the name of a JPEG."""
    from PIL import EpsImagePlugin

    def started(*_: object, **__: object) -> None:
        pytest.fail("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    monkeypatch.setattr(subprocess, "check_call", started)
    with pytest.raises(DataError) as caught:
        decode_picture(POSTSCRIPT, "x.jpg")
    assert one_line(caught.value).startswith("x.jpg: ") and "no picture" in str(caught.value)
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(POSTSCRIPT, 64, 3)


@pytest.mark.parametrize("format", ["JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_pictures_are_known_by_their_bytes(format):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(file, format)
    assert decode_picture(file.getvalue(), "x.png").convert("RGB").getpixel((4, 4))[0] > 250


def test_more_pixels_than_pillow_decodes_are_told_with_the_limit(monkeypatch, one_line):
    file = io.BytesIO()
    Image.new("1", (100, 100)).save(file, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4999)
    with pytest.raises(DataError) as caught:
        decode_picture(file.getvalue(), "x.png")
    assert one_line(caught.value) == "x.png: more than 9,998 pixels; wanted no more"
