"""Videos of pictures: H.264 in mp4, through PyAV."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from hires.errors import HiresError
from hires.sampling.atomic import whole_file
from hires.sampling.hires_bundle import Bundle, pictures_at_once
from hires.sampling.images import enlarge, to_uint8
from hires.sampling.interpolation import keyframe_path

VISIBLE = 256  # smallest side of an interpolation clip in pixels
BT709 = 1  # number of the colour space in H.264, for matrix, primaries and transfer alike
LIMITED = 1  # number of the 16 ... 235 range


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: int) -> None:
    """Write uint8 frames (H, W, 3), RGB, H and W even, as mp4 at `fps` frames a second: H.264, yuv420p, BT.709, index at the front.

    Frames are encoded as they come, so the iterable may be of any length; the file appears when it is whole. Raises HiresError for no
    frames, an odd or changing size, another type, fps below 1, or a file that cannot be written; what `frames` raises goes through.
    """
    path = Path(path)
    if fps < 1:
        raise HiresError(f"{path}: fps={fps}, wanted at least 1")
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise HiresError(f"{path}: no frames to write")
    shape = first.shape
    if len(shape) != 3 or shape[2] != 3 or first.dtype != np.uint8:
        raise HiresError(f"{path}: frames of shape {shape} and type {first.dtype}, wanted uint8 (H, W, 3)")
    if shape[0] % 2 or shape[1] % 2:
        raise HiresError(f"{path}: frames of {shape[1]}x{shape[0]} pixels, H.264 with yuv420p wants an even width and height")
    with whole_file(path) as part, av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "17"})
        stream.height, stream.width, stream.pix_fmt = shape[0], shape[1], "yuv420p"
        # said in the file, so that no player guesses from the size and shifts the colours
        coder = stream.codec_context
        coder.colorspace = coder.color_primaries = coder.color_trc = BT709
        coder.color_range = LIMITED
        for i, frame in enumerate(chain([first], frames)):
            if frame.shape != shape or frame.dtype != np.uint8:
                raise HiresError(f"{path}: frame {i} is {frame.dtype} {frame.shape}, the first was uint8 {shape}")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")))
        container.mux(stream.encode())


def interpolation_clip(
    source: Bundle | Callable[[Tensor], Tensor],
    keys: Tensor,
    path: str | Path,
    seconds_per_key: float = 2.0,
    fps: int = 30,
    kind: str = "slerp",
    loop: bool = True,
    scale: int | None = None,
) -> int:
    """Write an mp4 that travels between the latents keys (K, d), `seconds_per_key` from one to the next, and return its number of frames.

    `source` is a bundle, or a callable from latents (B, d) to images (B, C, H, W) in [-1, 1], C 1 or 3. `kind` and `loop` as in
    `keyframe_path`. Pixels are repeated `scale` times; unless given, by the smallest whole number that makes the shorter side 256 pixels.
    Raises HiresError as `keyframe_path` and `write_video` do.
    """
    generate = source.generator if isinstance(source, Bundle) else source
    latents = keyframe_path(keys, max(1, round(seconds_per_key * fps)), kind, loop)
    write_video(path, _frames(generate, latents, scale), fps)
    return len(latents)


@torch.no_grad()
def _frames(generate: Callable[[Tensor], Tensor], latents: Tensor, scale: int | None) -> Iterator[np.ndarray]:
    at_once = pictures_at_once(getattr(generate, "resolution", 1024))  # a plain callable may make pictures of any size: assume large
    for part in latents.split(at_once):
        images = to_uint8(generate(part)).cpu()
        images = enlarge(images, scale * min(images.shape[-2:]) if scale else VISIBLE).expand(-1, 3, -1, -1)
        yield from images.permute(0, 2, 3, 1).numpy()
