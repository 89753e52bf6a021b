"""Clips, judged by what their container says."""

import av
import numpy as np
import pytest
import torch

from hires.errors import HiresError
from hires.sampling.video import interpolation_clip, write_video


def frames(count, height=64, width=48):
    return [np.full((height, width, 3), (200, 40, 10 + 5 * i), dtype=np.uint8) for i in range(count)]


def read(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = [frame for frame in container.decode(stream)]
        return stream, pictures


def boxes(path):
    """The names of an mp4's outermost boxes in order."""
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        names.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4], "big")
    return names


def test_the_container_says_what_was_asked(tmp_path):
    write_video(tmp_path / "new" / "clip.mp4", iter(frames(13)), fps=12)
    stream, pictures = read(tmp_path / "new" / "clip.mp4")
    assert len(pictures) == 13
    assert stream.frames == 13
    assert stream.average_rate == 12
    assert (stream.width, stream.height) == (48, 64)
    assert stream.codec_context.name == "h264"
    assert stream.codec_context.pix_fmt == "yuv420p"
    names = boxes(tmp_path / "new" / "clip.mp4")
    assert names.index("moov") < names.index("mdat")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["clip.mp4"]


def test_colours_come_back(tmp_path):
    write_video(tmp_path / "clip.mp4", frames(3), fps=12)
    stream, pictures = read(tmp_path / "clip.mp4")
    context = stream.codec_context
    assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    for i, picture in enumerate(pictures):
        # read as the file says it is coded
        rgb = picture.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG").to_ndarray()
        assert np.abs(rgb.astype(int) - (200, 40, 10 + 5 * i)).max() <= 4


def test_half_a_clip_never_has_the_final_name(tmp_path):
    path = tmp_path / "clip.mp4"

    def broken():
        yield from frames(49) * 3  # more than the encoder keeps back
        assert not path.exists()
        assert len(list(tmp_path.iterdir())) == 1  # being written, under another name
        raise RuntimeError("the generator died")

    with pytest.raises(RuntimeError, match="the generator died"):
        write_video(path, broken(), fps=12)
    assert list(tmp_path.iterdir()) == []
    write_video(path, frames(2), fps=12)
    before = path.read_bytes()
    with pytest.raises(AssertionError):
        write_video(path, broken(), fps=12)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "no frames"),
        (frames(1, 64, 47), "frames of 47x64 pixels, H.264 with yuv420p wants an even width and height"),
        ([frame.astype(np.float32) for frame in frames(1)], "float32, wanted uint8"),
        ([frame[..., 0] for frame in frames(1)], r"wanted uint8 \(H, W, 3\)"),
        (frames(1) + frames(1, 32, 32), r"frame 1 is uint8 \(32, 32, 3\), the first was uint8 \(64, 48, 3\)"),
    ],
)
def test_frames_that_cannot_be_coded_are_refused_in_one_line(tmp_path, pictures, message):
    with pytest.raises(HiresError, match=message) as caught:
        write_video(tmp_path / "clip.mp4", pictures, fps=12)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HiresError, match=r"clip\.mp4: not written"):
        write_video(tmp_path / "file" / "clip.mp4", frames(2), fps=12)
    with pytest.raises(HiresError, match="fps=0"):
        write_video(tmp_path / "clip.mp4", frames(2), fps=0)


class Painter:
    """A generator of one grey a picture, the first latent number, that counts its calls."""

    resolution = 4

    def __init__(self):
        self.batches = []

    def __call__(self, z):
        assert not torch.is_grad_enabled()
        self.batches.append(len(z))
        return z[:, :1, None, None].expand(-1, 1, 4, 4)


def test_a_clip_travels_between_its_keys_in_batches(tmp_path):
    keys = torch.tensor([[-0.8, 0.3], [0.8, 0.3], [0.0, -0.5]])
    painter = Painter()
    count = interpolation_clip(painter, keys, tmp_path / "clip.mp4", seconds_per_key=2, fps=12, kind="linear")
    stream, pictures = read(tmp_path / "clip.mp4")
    assert count == len(pictures) == 72
    assert (stream.width, stream.height) == (256, 256)
    assert painter.batches == [64, 8]
    shades = [picture.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG").to_ndarray().mean() for picture in pictures]
    for i, key in enumerate(keys[:, 0].tolist()):
        assert shades[24 * i] == pytest.approx((key + 1) * 127.5, abs=3)
    # a loop: from the last frame to the first is one step more
    assert shades[0] - shades[-1] == pytest.approx(shades[-1] - shades[-2], abs=3)
    count = interpolation_clip(painter, keys, tmp_path / "line.mp4", seconds_per_key=0.5, fps=12, loop=False, scale=8)
    stream, pictures = read(tmp_path / "line.mp4")
    assert count == len(pictures) == 13
    assert stream.width == 32
