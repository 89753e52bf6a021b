"""From any picture to a pyramid of square uint8 arrays."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from .errors import DataError

SMALLEST = 4  # pixels, the lowest level
PHOTOMETRIC, BITS_PER_SAMPLE = 262, 258  # TIFF's tags
WHITE_IS_ZERO = 0
FILTERS = ("lanczos", "bicubic", "bilinear", "box")


def as_seen(image: Image.Image, channels: int) -> Image.Image:
    """The picture as a viewer shows it, 8 bits: mode 'RGB' (channels=3) or 'L' (channels=1).

    EXIF rotation is applied, transparency lies on white, palettes and CMYK are resolved, 16-bit values v become round(v * 255 / 65535),
    those of a TIFF with fewer bits accordingly. Raises ValueError for floating-point pictures and integers beyond 16 bits, whose range is
    not known.
    """
    tags = getattr(image, "tag_v2", {})  # a TIFF's, which its copies have no more
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
        most = 2**bits - 1 if image.mode != "I" else 65535
        if values.min() < 0 or values.max() > most:
            raise ValueError(f"values {values.min()}..{values.max()}; wanted 0..{most}")
        if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow turns such pictures round up to 8 bits alone
            values = most - values
        image = Image.fromarray(((values * 255 + most // 2) // most).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels; wanted 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
    mode = "RGB" if channels == 3 else "L"
    return image if image.mode == mode else image.convert("RGB").convert(mode)


def square(image: Image.Image, resolution: int, channels: int, filter: str, upscale: bool) -> np.ndarray:
    """The centre square of a picture as uint8 (resolution, resolution, channels), resized by `filter` (one of FILTERS).

    Raises ValueError, found and wanted size in it, if the picture is below 4x4, or below `resolution` and not `upscale`.
    """
    image = as_seen(image, channels)
    width, height = image.size
    side = min(width, height)
    smallest = SMALLEST if upscale else resolution
    if side < smallest:
        hint = "" if side < SMALLEST or upscale else ", or allow_upscale=true"
        raise ValueError(f"{width}x{height} pixels; wanted at least {smallest}x{smallest}{hint}")
    left, top = (width - side) // 2, (height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != resolution:
        image = image.resize((resolution, resolution), Image.Resampling[filter.upper()])
    return np.asarray(image).reshape(resolution, resolution, channels)


def histogram(pixels: np.ndarray) -> np.ndarray:
    """How often each value occurs in uint8 (r, r, C), int64 (C, 256)."""
    return np.array(image_of(pixels).histogram(), np.int64).reshape(-1, 256)


def image_of(pixels: np.ndarray) -> Image.Image:
    """uint8 (r, r, 3) -> mode 'RGB', (r, r, 1) -> mode 'L'."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def levels_up_to(resolution: int) -> list[int]:
    """[4, 8, ..., resolution], or [resolution] alone for another multiple of 4; raises DataError outside 4 to 4096."""
    if not SMALLEST <= resolution <= 4096 or resolution % 4:
        wanted = f"a power of two from {SMALLEST} to 4096, or for one level a multiple of 4 such as 28"
        raise DataError(f"resolution={resolution}: wanted {wanted}")
    if resolution & (resolution - 1):
        return [resolution]
    return [2**k for k in range(2, resolution.bit_length())]


def pyramid(top: np.ndarray) -> Iterator[np.ndarray]:
    """All levels of a square uint8 (r, r, C), from r down to 4: each pixel is the mean of the `top` pixels it covers, rounded half up.

    That equals 2x2 box averages from level to level, taken of the unrounded level above. The sums are kept as integers, so they are exact.
    A side that is not a power of two is one level alone.
    """
    yield top
    if top.shape[0] & (top.shape[0] - 1):
        return
    sums, shift = top, 0
    while sums.shape[0] > SMALLEST:
        rows = np.add(sums[0::2], sums[1::2], dtype=np.uint32)
        sums, shift = rows[:, 0::2] + rows[:, 1::2], shift + 2
        yield ((sums + (1 << (shift - 1))) >> shift).astype(np.uint8)
