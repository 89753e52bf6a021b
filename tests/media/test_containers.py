"""Clips as files, judged by what their container says and by what comes out when they are read."""

from pathlib import Path
import subprocess

import numpy as np
from PIL import Image
import pytest

from hires.errors import HiresError
from hires.media.containers import write_video
from tests.sampling.clips import read, rgb


def frames(count, height=64, width=48):
    return [np.full((height, width, 3), (200, 40, 10 + 5 * i), dtype=np.uint8) for i in range(count)]


def boxes(path):
    """The names of an mp4's or a mov's outermost boxes in order."""
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        names.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4], "big")
    return names


FACTS = {".mp4": ("h264", "yuv420p"), ".webm": ("vp9", "yuv420p"), ".mov": ("prores", "yuv422p10le")}


@pytest.mark.parametrize("suffix", FACTS)
@pytest.mark.parametrize("fps", [12, 30])
def test_the_container_says_what_was_asked(suffix, fps, tmp_path):
    path = tmp_path / "new" / f"clip{suffix}"
    assert write_video(path, iter(frames(13)), fps) == 13
    clip = read(path)
    assert len(clip.pictures) == 13
    assert clip.rate == fps
    assert clip.size == (48, 64)
    assert (clip.codec, clip.pixels) == FACTS[suffix]
    assert clip.seconds == pytest.approx(13 / fps, abs=0.002)
    if suffix != ".webm":
        assert clip.frames == 13
        assert boxes(path).index("moov") < boxes(path).index("mdat")  # a browser begins before it has the whole file
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FACTS)
def test_colours_come_back(suffix, tmp_path):
    path = tmp_path / f"clip{suffix}"
    write_video(path, frames(3), fps=12)
    clip = read(path)
    assert clip.colours == (1, 1, 1, 1)
    for i, picture in enumerate(clip.pictures):
        assert np.abs(rgb(picture).astype(int) - (200, 40, 10 + 5 * i)).max() <= 4


def test_equal_frames_stay_equal(tmp_path):
    """ProRes codes each frame by itself; a conversion in several threads got a few pixels of one in a hundred wrong."""
    write_video(tmp_path / "clip.mov", frames(1) * 400, fps=30)
    pictures = [rgb(picture) for picture in read(tmp_path / "clip.mov").pictures]
    assert len(pictures) == 400 and all(np.array_equal(picture, pictures[0]) for picture in pictures)


@pytest.mark.parametrize(("loop", "repeats"), [(True, 0), (False, None)])  # None: once
def test_a_gif_has_its_frames_colours_time_and_loop(loop, repeats, tmp_path):
    path = tmp_path / "clip.gif"
    assert write_video(path, frames(13), fps=30, loop=loop) == 13
    with Image.open(path) as gif:
        assert (gif.format, gif.n_frames, gif.size) == ("GIF", 13, (48, 64))
        assert gif.info.get("loop") == repeats
        times = []
        for i in range(13):
            gif.seek(i)
            times.append(gif.info["duration"])
            assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - (200, 40, 10 + 5 * i)).max() <= 8
    assert set(times) <= {30, 40}  # whole hundredths of a second
    assert sum(times) == pytest.approx(13 * 1000 / 30, abs=10)


def test_frames_are_numbered_pngs_bit_for_bit(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 7, 5, 3), dtype=np.uint8)  # odd sizes too
    assert write_video(f"{tmp_path}/frames/", iter(noise), fps=12) == 40
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == [f"frame{i:06d}.png" for i in range(40)]
    for name, wanted in zip(names, noise, strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "frames" / name)), wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]
    with pytest.raises(HiresError, match="frames: exists already"):
        write_video(f"{tmp_path}/frames", iter(noise), fps=12)


OUTS = ["clip.mp4", "clip.webm", "clip.mov", "clip.gif", "frames"]


@pytest.mark.parametrize("name", OUTS)
def test_half_a_clip_never_has_the_final_name(name, tmp_path):
    path = tmp_path / name

    def broken():
        yield from frames(49) * 3  # more than the encoder keeps back
        assert all(found.name.startswith(".") for found in tmp_path.iterdir())  # being written, under another name
        raise RuntimeError("the generator died")

    with pytest.raises(RuntimeError, match="the generator died"):
        write_video(path, broken(), fps=12)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_clip_that_was_there(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, frames(2), fps=12)
    before = path.read_bytes()

    def interrupted():
        yield from frames(20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, interrupted(), fps=12)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"this user cannot mount a small file system: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("name", OUTS)
@pytest.mark.parametrize(("count", "size"), [(40, 64), (2, 256)])  # told while frames come, and when all have come
def test_a_full_disk_is_one_line_and_leaves_nothing(name, count, size, small_disk):
    noise = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    with pytest.raises(HiresError, match=rf"{name}: not written: No space left on device") as caught:
        write_video(small_disk / name, iter(noise), fps=12)
    assert "\n" not in str(caught.value)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "no frames"),
        (frames(1, 64, 47), r"frames of 47x64 pixels; \.mp4 wants an even width and height"),
        (frames(1, 63, 48), r"frames of 48x63 pixels; \.mp4 wants an even width and height"),
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


def test_places_and_rates_that_cannot_be_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("clip.mp4", "clip.gif", "frames"):
        with pytest.raises(HiresError, match=rf"{name}: not written"):
            write_video(tmp_path / "file" / name, frames(2), fps=12)
    for name, fps in (("clip.mp4", 0), ("clip.mp4", 241), ("clip.gif", 60)):
        with pytest.raises(HiresError, match=f"fps={fps}: wanted 1 to"):
            write_video(tmp_path / name, frames(2), fps)
    with pytest.raises(HiresError, match=r"clip\.avi: wanted \.mp4"):
        write_video(tmp_path / "clip.avi", frames(2), fps=12)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_the_number_of_frames_is_told_as_they_are_written(tmp_path):
    told = []
    write_video(Path(tmp_path / "clip.mp4"), iter(frames(5)), fps=12, show=told.append)
    assert told == [1, 2, 3, 4, 5]
