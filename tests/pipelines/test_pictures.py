"""Pictures look in the shards as they look to a person, and the pyramid is exact."""

from fractions import Fraction
import io
import struct

import numpy as np
from PIL import Image
import pytest

from pipelines import DataError
from pipelines.codecs import Codec, codec_of, decode
from pipelines.pyramid import as_seen, histogram, levels_up_to, pyramid, square
from pipelines.sources.base import decode_picture


def reopened(image: Image.Image, suffix: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def test_exif_rotation_is_applied(draw):
    upright = Image.fromarray(draw(0, 64, 48))
    stored = upright.transpose(Image.Transpose.ROTATE_90)  # as a camera held sideways stores it
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me 90 degrees clockwise"
    seen = as_seen(reopened(stored, "JPEG", exif=exif, quality=100, subsampling=0), 3)
    assert seen.size == upright.size
    assert np.abs(np.asarray(seen, int) - np.asarray(upright, int)).mean() < 2


def test_transparency_lies_on_white():
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, :4] = (200, 0, 0, 255)
    rgba[:, 4:] = (0, 0, 0, 0)
    seen = np.asarray(as_seen(reopened(Image.fromarray(rgba), "PNG"), 3))
    assert (seen[:, :4] == (200, 0, 0)).all() and (seen[:, 4:] == 255).all()
    rgba[:] = (0, 0, 0, 128)
    assert np.asarray(as_seen(Image.fromarray(rgba), 1))[0, 0] == 127


def test_a_transparent_palette_lies_on_white():
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 10, 120, 30])
    picture.paste(0, (0, 0, 4, 8))
    seen = np.asarray(as_seen(reopened(picture, "PNG", transparency=0), 3))
    assert (seen[:, :4] == 255).all() and (seen[:, 4:] == (10, 120, 30)).all()


def test_cmyk_and_grey_and_bits_become_rgb(draw):
    colours = Image.fromarray(draw(1))
    cmyk = as_seen(reopened(colours.convert("CMYK"), "JPEG", quality=98), 3)
    assert cmyk.mode == "RGB" and np.abs(np.asarray(cmyk, int) - np.asarray(colours, int)).mean() < 6
    for mode in ("L", "1", "LA", "P"):
        assert as_seen(reopened(colours.convert(mode), "PNG"), 3).mode == "RGB"
        assert as_seen(reopened(colours.convert(mode), "PNG"), 1).mode == "L"


def test_sixteen_bits_are_scaled_not_cut():
    values = np.array([[0, 128, 129, 257], [32768, 65406, 65407, 65535]], np.uint16)
    expected = [[0, 0, 1, 1], [128, 254, 255, 255]]
    for suffix in ("PNG", "TIFF"):
        assert np.asarray(as_seen(reopened(Image.fromarray(values), suffix), 1)).tolist() == expected
        assert np.asarray(as_seen(reopened(Image.fromarray(values), suffix), 3))[:, :, 2].tolist() == expected


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_a_tiff_of_any_depth_whose_zero_is_white_or_black(bits, white_is_zero, order):
    """A row from black to white, packed by hand: Pillow writes none of them but the plainest."""
    width, most = 16, 2**bits - 1
    grey = [x * most // (width - 1) for x in range(width)]
    stored = [most - value if white_is_zero else value for value in grey]
    data = int("".join(f"{value:0{bits}b}" for value in stored), 2).to_bytes(width * bits // 8, "big")
    if bits == 16:
        data = np.array(stored, f"{order}u2").tobytes()
    shorts = {258: bits, 259: 1, 262: int(not white_is_zero), 277: 1}
    longs = {256: width, 257: 1, 273: 8 + 2 + 12 * 8 + 4, 278: 1, 279: len(data)}
    del longs[278]
    fields = [struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()]
    fields += [struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in longs.items()]
    fields.sort(key=lambda field: struct.unpack(f"{order}H", field[:2]))
    file = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(fields)) + b"".join(fields) + bytes(4) + data
    try:
        image = decode_picture(file, "it")
    except DataError as error:
        assert "no picture" in str(error) and bits in (12, 16)  # kinds that Pillow does not read are refused, not misread
        return
    assert np.asarray(as_seen(image, 1)).tolist() == [[(2 * value * 255 + most) // (2 * most) for value in grey]]


@pytest.mark.parametrize("values", [np.zeros((8, 8), np.float32), np.full((8, 8), 70000, np.int32)])
def test_pixels_of_unknown_range_are_refused(values):
    with pytest.raises(ValueError, match="wanted"):
        as_seen(Image.fromarray(values), 3)


def test_the_crop_is_the_centre_square():
    wide = np.zeros((8, 20, 3), np.uint8)
    wide[:, 6:14] = 255
    assert (square(Image.fromarray(wide), 8, 3, "lanczos", False) == 255).all()
    assert (square(Image.fromarray(wide.transpose(1, 0, 2)), 8, 3, "lanczos", False) == 255).all()


def test_a_picture_of_the_right_size_is_not_touched(draw):
    pixels = draw(3, 64, 64)
    assert (square(Image.fromarray(pixels), 64, 3, "lanczos", False) == pixels).all()


@pytest.mark.parametrize("width, height, upscale, wanted", [(3, 1, True, "4x4"), (3, 1, False, "64x64"), (80, 63, False, "allow_upscale")])
def test_small_pictures_are_refused_with_both_sizes(width, height, upscale, wanted, draw):
    with pytest.raises(ValueError, match=f"{width}x{height} pixels; wanted .*{wanted}"):
        square(Image.fromarray(draw(0, width, height)), 64, 3, "lanczos", upscale)


def test_small_pictures_are_enlarged_when_asked(draw):
    assert square(Image.fromarray(draw(0, 80, 63)), 64, 3, "lanczos", True).shape == (64, 64, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_pyramid_is_exact_box_averages_rounded_half_up(channels, draw):
    top = draw(4, 32, 32, channels)
    levels = list(pyramid(top))
    assert [level.shape for level in levels] == [(r, r, channels) for r in (32, 16, 8, 4)]
    exact = [[[Fraction(int(v)) for v in pixel] for pixel in row] for row in top]
    for level in levels[1:]:
        size = len(exact) // 2
        exact = [
            [[sum(exact[2 * y + j][2 * x + i][c] for j in (0, 1) for i in (0, 1)) / 4 for c in range(channels)] for x in range(size)]
            for y in range(size)
        ]
        assert level.tolist() == [[[int(v + Fraction(1, 2)) for v in pixel] for pixel in row] for row in exact]


def test_halves_are_rounded_up_and_large_sums_do_not_overflow():
    half = np.zeros((8, 8, 1), np.uint8)
    half[0::2] = 1
    assert (list(pyramid(half))[1] == 1).all()
    assert all((level == 255).all() for level in pyramid(np.full((4096, 4096, 1), 255, np.uint8)))


def test_the_histogram_counts_every_channel(draw):
    pixels = draw(5, 16, 16)
    assert (histogram(pixels) == [np.bincount(pixels[:, :, c].ravel(), minlength=256) for c in range(3)]).all()


@pytest.mark.parametrize("resolution", [0, 2, 50, 8192, -4])
def test_a_resolution_is_a_power_of_two_or_a_multiple_of_four(resolution):
    with pytest.raises(DataError, match=f"resolution={resolution}: wanted a power of two"):
        levels_up_to(resolution)


def test_another_multiple_of_four_is_one_level_alone(draw):
    assert levels_up_to(28) == [28] and [len(level) for level in pyramid(draw(1, 28, 28))] == [28]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["png", "webp-lossless", "raw", "jpeg:97:444"])
def test_codecs_give_back_the_picture(name, channels, draw):
    pixels = draw(6, 128, 128, channels)
    data = Codec(name).encode(pixels)
    found = decode(data, 128, channels)
    assert data == Codec(name).encode(pixels)
    assert Codec(name).lossless == (name != "jpeg:97:444")
    assert np.abs(found.astype(int) - pixels).mean() <= (0 if Codec(name).lossless else 2)


@pytest.mark.parametrize("name", ["png", "webp-lossless", "raw", "jpeg:97:444"])
@pytest.mark.parametrize("shape", [(128, 128, 1), (64, 64, 3), (128, 64, 3)])
def test_another_shape_than_the_levels_is_refused(name, shape, draw):
    data = Codec(name).encode(draw(6, shape[1], shape[0], shape[2]))
    if name == "webp-lossless" and shape[2] == 1:  # WebP stores grey as colour
        return
    with pytest.raises(ValueError, match="found"):
        decode(data, 128, 3)


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_no_picture_are_refused(data):
    with pytest.raises(ValueError, match=f"{len(data)} bytes"):
        decode(data, 128, 3)


def test_a_raw_picture_is_numpys_own_format(draw):
    """So that webdataset and np.load read it without this project; objects, which need pickle, are refused."""
    pixels = draw(6, 128, 128)
    assert (np.load(io.BytesIO(Codec("raw").encode(pixels)), allow_pickle=False) == pixels).all()
    hidden = io.BytesIO()
    np.save(hidden, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="found"):
        decode(hidden.getvalue(), 128, 3)


def test_levels_up_to_64_are_lossless_whatever_the_codec():
    assert [codec_of(r, "jpeg:90:420").suffix for r in (4, 64, 128)] == ["png", "png", "jpg"]


@pytest.mark.parametrize("name", ["gif", "jpeg", "jpeg:0:444", "jpeg:101:444", "jpeg:97:411", "png:9", ""])
def test_an_unknown_codec_is_refused(name):
    with pytest.raises(DataError, match=f"codec={name}: unknown; wanted png, webp-lossless, raw or jpeg"):
        Codec(name)


def test_stored_pictures_of_another_kind_are_refused(draw):
    data = Codec("png").encode(draw(0, 64, 64))
    for resolution, channels in ((32, 3), (64, 1)):
        with pytest.raises(ValueError, match="found 64x64 RGB"):
            decode(data, resolution, channels)
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(data[:100], 64, 3)
