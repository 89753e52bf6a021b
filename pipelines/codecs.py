"""How pictures are stored in shards: PNG up to 64x64, where a shard is small and rounding would show, a stated codec above."""

from dataclasses import dataclass
import io

import numpy as np
from PIL import Image

from .errors import DataError
from .pictures import image_of

LOSSLESS_UP_TO = 64  # pixels
SUBSAMPLING = {"444": 0, "422": 1, "420": 2}  # Pillow's numbers


@dataclass(frozen=True)
class Codec:
    """A codec by the name it has in configurations and manifests: 'png', or 'jpeg:QUALITY:444|422|420'."""

    name: str

    def __post_init__(self):
        match self.name.split(":"):
            case ["png"]:
                return
            case ["jpeg", quality, subsampling] if quality.isdecimal() and 1 <= int(quality) <= 100 and subsampling in SUBSAMPLING:
                return
        raise DataError(f"codec={self.name}: unknown; wanted png or jpeg:QUALITY:SUBSAMPLING, such as jpeg:97:444")

    @property
    def suffix(self) -> str:
        """'png' or 'jpg'."""
        return "png" if self.name == "png" else "jpg"

    def encode(self, pixels: np.ndarray) -> bytes:
        """uint8 (H, W, 1 or 3) -> the bytes of a file, the same ones each time."""
        image = image_of(pixels)
        buffer = io.BytesIO()
        if self.name == "png":
            image.save(buffer, "PNG", compress_level=3)  # a third faster than the default at 64x64, 4% larger
        else:
            _, quality, subsampling = self.name.split(":")
            image.save(buffer, "JPEG", quality=int(quality), subsampling=SUBSAMPLING[subsampling])
        return buffer.getvalue()


def codec_of(resolution: int, above: str) -> Codec:
    """The codec of a level: PNG up to 64x64, `above` beyond; raises DataError if `above` is not a codec's name."""
    codec = Codec(above)
    return codec if resolution > LOSSLESS_UP_TO else Codec("png")


def decode(data: bytes, resolution: int, channels: int) -> np.ndarray:
    """The bytes of a stored picture -> uint8 (channels, resolution, resolution); raises ValueError if they hold anything else."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise ValueError(f"{len(data)} bytes that cannot be decoded") from error
    if image.size != (resolution, resolution) or image.mode != ("RGB" if channels == 3 else "L"):
        raise ValueError(f"found {image.width}x{image.height} {image.mode}")
    pixels = np.asarray(image)
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]
