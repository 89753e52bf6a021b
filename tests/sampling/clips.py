"""Reads clips back."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


@dataclass
class Clip:
    """What a container says of its one stream, and its frames, decoded."""

    codec: str
    pixels: str
    size: tuple[int, int]  # width and height
    rate: Fraction
    frames: int  # 0 where the container does not say
    seconds: float
    colours: tuple[int, int, int, int]  # matrix, primaries, transfer, range
    pictures: list[av.VideoFrame]


def read(path: Path) -> Clip:
    """A clip as it is on the disk."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        coder = stream.codec_context
        pictures = list(container.decode(stream))
        colours = (coder.colorspace, coder.color_primaries, coder.color_trc, coder.color_range)
        facts = (coder.codec.name, coder.pix_fmt, (stream.width, stream.height), stream.average_rate, stream.frames)
        return Clip(*facts, container.duration / 1e6, colours, pictures)


def rgb(picture: av.VideoFrame) -> np.ndarray:
    """A decoded frame (H, W, 3), uint8, read as the file says that it is coded."""
    return picture.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG", threads=1).to_ndarray()
