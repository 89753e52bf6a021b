"""How pictures are stored in shards: PNG up to 64x64, where a shard is small and rounding would show, a stated codec above."""

from dataclasses import dataclass
import io

import numpy as np
from PIL import Image

from .errors import DataError
from .pyramid import image_of

LOSSLESS_UP_TO = 64  # pixels
SUBSAMPLING = {"444": 0, "422": 1, "420": 2}  # Pillow's numbers
FORMATS = ("PNG", "JPEG", "WEBP")  # Pillow's names; it knows more, and hands some to other programs
SUFFIXES = {"png": "png", "jpeg": "jpg", "webp-lossless": "webp", "raw": "npy"}


@dataclass(frozen=True)
class Codec:
    """A codec by the name it has in configurations and manifests: png, jpeg:QUALITY:444|422|420, webp-lossless or raw (NumPy's .npy)."""

    name: str

    def __post_init__(self):
        match self.name.split(":"):
            case ["png" | "webp-lossless" | "raw"]:
                return
            case ["jpeg", quality, subsampling] if quality.isdecimal() and 1 <= int(quality) <= 100 and subsampling in SUBSAMPLING:
                return
        wanted = "png, webp-lossless, raw or jpeg:QUALITY:SUBSAMPLING, such as jpeg:97:444"
        raise DataError(f"codec={self.name}: unknown; wanted {wanted}")

    @property
    def suffix(self) -> str:
        """'png', 'jpg', 'webp' or 'npy'."""
        return SUFFIXES[self.name.split(":")[0]]

    @property
    def lossless(self) -> bool:
        """Whether decoding gives back the very pixels."""
        return not self.name.startswith("jpeg")

    def encode(self, pixels: np.ndarray) -> bytes:
        """uint8 (H, W, 1 or 3) -> the bytes of a file, the same ones each time."""
        buffer = io.BytesIO()
        match self.name.split(":"):
            case ["raw"]:
                np.lib.format.write_array(buffer, np.ascontiguousarray(pixels), version=(1, 0), allow_pickle=False)
            case ["png"]:
                image_of(pixels).save(buffer, "PNG", compress_level=3)  # a third faster than the default at 64x64, 4% larger
            case ["webp-lossless"]:
                image_of(pixels).save(buffer, "WEBP", lossless=True)
            case [_, quality, subsampling]:
                image_of(pixels).save(buffer, "JPEG", quality=int(quality), subsampling=SUBSAMPLING[subsampling])
        return buffer.getvalue()


def codec_of(resolution: int, above: str) -> Codec:
    """The codec of a level: PNG up to 64x64, `above` beyond; raises DataError if `above` is not a codec's name."""
    codec = Codec(above)
    return codec if resolution > LOSSLESS_UP_TO else Codec("png")


def decode(data: bytes, resolution: int, channels: int) -> np.ndarray:
    """The bytes of a stored picture -> uint8 (resolution, resolution, channels), not to be written to.

    Raises ValueError if they hold anything else.
    """
    if data.startswith(b"\x93NUMPY"):
        return _decode_raw(data, (resolution, resolution, channels))
    image = open_image(data, resolution, channels)
    return np.asarray(image).reshape(resolution, resolution, channels)


def open_image(data: bytes, resolution: int, channels: int) -> Image.Image:
    """The decoded picture of any codec but raw, mode 'RGB' (channels=3) or 'L' (1); raises ValueError as `decode` does."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise ValueError(f"{len(data)} bytes that cannot be decoded") from error
    if channels == 1 and image.format == "WEBP":
        image = image.convert("L")  # WebP knows colour only: three equal values, and their weighted mean is the same value
    if image.size != (resolution, resolution) or image.mode != ("RGB" if channels == 3 else "L"):
        raise ValueError(f"found {image.width}x{image.height} {image.mode}")
    return image


def _decode_raw(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    header = io.BytesIO(data)
    try:
        np.lib.format.read_magic(header)
        found, fortran, dtype = np.lib.format.read_array_header_1_0(header)
    except ValueError as error:
        raise ValueError(f"{len(data)} bytes with a header that cannot be read") from error
    if found != shape or fortran or dtype != np.uint8 or len(data) != header.tell() + np.prod(shape):
        raise ValueError(f"found {len(data)} bytes of {dtype} {found}")
    return np.frombuffer(data, np.uint8, offset=header.tell()).reshape(shape)
