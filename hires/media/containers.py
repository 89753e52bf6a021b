"""Clips as files: H.264, VP9 and ProRes through PyAV, GIF with one palette made for the clip, and folders of numbered PNG frames."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
import math
import os
from pathlib import Path
import tempfile

import numpy as np
from PIL import Image

from hires.errors import HiresError
from hires.ground.files import whole_file, whole_folder

BT709 = 1  # number of the colour space in H.264's tables, for matrix, primaries and transfer alike
LIMITED = 1  # number of the 16 ... 235 range
GIF_FPS = 50  # GIF counts in 1/100 s, and browsers slow down what is shown for less than two of them
GIF_LOOP = {True: {"loop": "0"}, False: {"loop": "-1"}}  # endlessly, or once
GIF_DITHER = "dither=bayer:bayer_scale=4:diff_mode=rectangle"  # a pattern that stands still; scattered errors would crawl over every frame
Show = Callable[[int], None]  # gets the number of frames written


@dataclass(frozen=True)
class Coding:
    """How a suffix is written."""

    container: str
    encoder: str
    pixels: str  # pixel format; both of them halve the colour's width, and yuv420p its height
    options: dict[str, str]
    muxer: dict[str, str] = field(default_factory=dict)


CODINGS = {
    ".mp4": Coding("mp4", "libx264", "yuv420p", {"preset": "veryfast", "crf": "14"}, {"movflags": "faststart"}),
    ".webm": Coding("webm", "libvpx-vp9", "yuv420p", {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}),
    ".mov": Coding("mov", "prores_ks", "yuv422p10le", {"profile": "3", "vendor": "apl0"}, {"movflags": "faststart"}),
}


def suffix_of(out: str | Path) -> str:
    """'.mp4', '.webm', '.mov', '.gif', '.png' or, for a name without an ending or with a slash behind it, '' for a folder of frames.

    Raises HiresError for another ending.
    """
    suffix = "" if str(out).endswith(("/", os.sep)) else Path(out).suffix.lower()
    if suffix not in (*CODINGS, ".gif", ".png", ""):
        raise HiresError(f"out={out}: wanted .mp4, .webm, .gif or .mov (ProRes), .png (a strip), or a folder for frames such as frames/")
    return suffix


def check_rate(out: str | Path, fps: int) -> None:
    """Raises HiresError for a number of frames a second that the file cannot have."""
    most = GIF_FPS if suffix_of(out) == ".gif" else 240
    if not 1 <= fps <= most:
        raise HiresError(f"fps={fps}: wanted 1 to {most} for {out}")


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: int, loop: bool = True, show: Show | None = None) -> int:
    """Write uint8 RGB frames (H, W, 3) as the clip that the suffix of `path` names, at `fps` frames a second; returns their number.

    .mp4 (H.264, yuv420p) and .webm (VP9, yuv420p) play in browsers, .mov is ProRes 422 HQ (yuv422p10le) for editing, all three tagged
    BT.709 and of even width and height; .gif has one palette of 256 colours for the clip and, with `loop`, repeats; no suffix is
    a new folder of frame000000.png, …. Frames are encoded as they come, and `show` gets their number; the file or folder appears when
    it is whole. Raises HiresError for no frames, an odd or changing size, another type, a rate out of range, a folder that has files in
    it, or a place that cannot be written; what `frames` raises goes through.
    """
    suffix = suffix_of(path)
    path = Path(path)
    if suffix == ".png":
        raise HiresError(f"{path}: wanted a clip or a folder, not one picture")
    check_rate(path, fps)
    checked = _Checked(path, frames, even=suffix in CODINGS, show=show)
    frames = iter(checked)
    first = next(frames, None)
    if first is None:
        raise HiresError(f"{path}: no frames to write")
    frames = chain([first], frames)
    if suffix == "":
        _write_pngs(path, frames)
    else:
        with whole_file(path) as part:
            if suffix == ".gif":
                _write_gif(part, frames, first.shape, fps, loop)
            else:
                _encode(part, frames, first.shape, fps, CODINGS[suffix])
    return checked.count


class _Checked:
    """Frames that are checked, counted and reported as they pass."""

    def __init__(self, path: Path, frames: Iterable[np.ndarray], even: bool, show: Show | None):
        self.path, self.frames, self.even, self.show, self.count = path, frames, even, show, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        shape = None
        for frame in self.frames:
            if shape is None:
                shape = frame.shape
                if len(shape) != 3 or shape[2] != 3 or frame.dtype != np.uint8:
                    raise HiresError(f"{self.path}: frames of shape {shape} and type {frame.dtype}, wanted uint8 (H, W, 3)")
                if self.even and (shape[0] % 2 or shape[1] % 2):
                    what = f"{self.path.suffix} wants an even width and height"
                    raise HiresError(f"{self.path}: frames of {shape[1]}x{shape[0]} pixels; {what}")
            if frame.shape != shape or frame.dtype != np.uint8:
                raise HiresError(f"{self.path}: frame {self.count} is {frame.dtype} {frame.shape}, the first was uint8 {shape}")
            yield np.ascontiguousarray(frame)
            self.count += 1
            if self.show:
                self.show(self.count)


def _encode(part: Path, frames: Iterator[np.ndarray], shape: tuple[int, int, int], fps: int, coding: Coding) -> None:
    import av

    with av.open(str(part), "w", format=coding.container, options=coding.muxer) as container:
        stream = container.add_stream(coding.encoder, rate=fps, options=coding.options)
        stream.height, stream.width, stream.pix_fmt = *shape[:2], coding.pixels
        # said in the file, so that no player guesses from the size and shifts the colours
        coder = stream.codec_context
        coder.colorspace = coder.color_primaries = coder.color_trc = BT709
        coder.color_range = LIMITED
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            # one thread: with more, one conversion in a hundred gets a few pixels wrong (PyAV 18.1, rgb24 to yuv422p10le)
            picture = picture.reformat(format=coding.pixels, dst_colorspace="ITU709", dst_color_range="MPEG", threads=1)
            picture.color_primaries = picture.color_trc = BT709  # which ProRes takes from each frame
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _write_gif(part: Path, frames: Iterator[np.ndarray], shape: tuple[int, int, int], fps: int, loop: bool) -> None:
    """Two passes: colours are counted while the frames are put aside, as they are, in a file without a name; then they are drawn."""
    import av

    with tempfile.TemporaryFile(dir=part.parent) as aside, av.open(str(part), "w", format="gif", options=GIF_LOOP[loop]) as container:
        stream = container.add_stream("gif", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *shape[:2], "pal8"
        once = Fraction(1, fps)
        size = {"width": stream.width, "height": stream.height, "time_base": once}
        counting, drawing = av.filter.Graph(), av.filter.Graph()
        counting.threads = drawing.threads = 1  # as for `reformat`
        counting.link_nodes(counting.add_buffer(format="rgb24", **size), counting.add("palettegen"), counting.add("buffersink")).configure()
        for frame in frames:
            counting.push(av.VideoFrame.from_ndarray(frame, format="rgb24"))
            aside.write(frame)
        counting.push(None)
        palette = counting.pull()
        source = drawing.add_buffer(format="rgb24", **size)
        colours = drawing.add_buffer(width=palette.width, height=palette.height, format=palette.format, time_base=once)
        draw = drawing.add("paletteuse", GIF_DITHER)
        source.link_to(draw)
        colours.link_to(draw, 0, 1)
        draw.link_to(drawing.add("buffersink"))
        drawing.configure()
        colours.push(palette)
        colours.push(None)
        aside.seek(0)
        for i, data in enumerate(iter(lambda: aside.read(math.prod(shape)), b"")):
            picture = av.VideoFrame.from_ndarray(np.frombuffer(data, np.uint8).reshape(shape), format="rgb24")
            picture.pts = i
            source.push(picture)
            container.mux(stream.encode(drawing.pull()))
        container.mux(stream.encode())


def _write_pngs(path: Path, frames: Iterator[np.ndarray]) -> None:
    workers, waiting = min(8, os.cpu_count() or 1), deque()
    with whole_folder(path) as part, ThreadPoolExecutor(workers) as pool:
        for i, frame in enumerate(frames):
            waiting.append(pool.submit(_save_png, frame, part / f"frame{i:06d}.png"))
            if len(waiting) > 2 * workers:
                waiting.popleft().result()
        for one in waiting:
            one.result()


def _save_png(frame: np.ndarray, file: Path) -> None:
    Image.fromarray(frame).save(file, format="PNG", compress_level=4)  # half of 6's time for 3 % more bytes
