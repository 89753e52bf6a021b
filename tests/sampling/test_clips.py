"""Clips between keyframes: what each frame shows, and what a person may ask for."""

import json

import numpy as np
from PIL import Image
import pytest
from safetensors.torch import save_file
import torch
from torch import nn

from hires import cli
from hires import networks as nets
from hires.bundle import hires_bundle
from hires.bundle.writing import PLAYERS, write_files
from hires.media.captions import bar_height
from hires.networks import NetworkConfig
from hires.sampling.clips import Look, Travel, clip_frames, interpolation_clip
from hires.sampling.keyframes import Keyframes
from tests.sampling.clips import read, rgb


def painter(z):
    """A generator of one grey a picture, the first latent number; the second is told by its lower half."""
    assert not torch.is_grad_enabled()
    return torch.cat([z[:, :1, None, None].expand(-1, 1, 2, 4), z[:, 1:2, None, None].expand(-1, 1, 2, 4)], 2)


def grey(number):
    return round((number + 1) * 127.5)


KEYS = torch.tensor([[-0.8, 0.3], [0.8, 0.3], [0.0, -0.5]])


def test_a_clip_travels_between_its_keys_and_closes_with_the_step_it_has(tmp_path):
    assert interpolation_clip(painter, KEYS, tmp_path / "clip.mp4", seconds_per_key=2, fps=12, kind="linear") == 72
    clip = read(tmp_path / "clip.mp4")
    assert len(clip.pictures) == 72 and clip.size == (256, 256)
    shades = [float(rgb(picture)[:100].mean()) for picture in clip.pictures]
    for i, key in enumerate(KEYS[:, 0].tolist()):
        assert shades[24 * i] == pytest.approx(grey(key), abs=3)
    assert shades[0] - shades[-1] == pytest.approx(shades[-1] - shades[-2], abs=3)
    assert interpolation_clip(painter, KEYS, tmp_path / "line.mp4", seconds_per_key=0.5, fps=12, loop=False) == 13


@pytest.mark.parametrize("kind", ["slerp", "spline", "walk"])
def test_decoded_frames_of_a_loop_close_as_they_go(kind, tmp_path):
    """From the last frame to the first the picture moves as much as from any frame to its next, and it does move."""
    count = interpolation_clip(painter, KEYS, tmp_path / "clip.mp4", seconds_per_key=1, fps=24, kind=kind)
    shades = np.array([[rgb(p)[:100].mean(), rgb(p)[-100:].mean()] for p in read(tmp_path / "clip.mp4").pictures])
    steps = np.abs(shades - np.roll(shades, 1, 0)).max(1)
    assert len(steps) == count == 72 and steps.max() > 1
    assert steps[0] <= np.sort(steps)[-2] + 1  # rounding of colours


def test_each_cell_of_a_grid_has_its_own_keys_in_reading_order():
    latents = torch.linspace(-1, 1, 12)[:, None].repeat(1, 2)
    keys = Keyframes(latents, [str(i) for i in range(12)])
    count, frames = clip_frames(painter, keys, Travel(3, "linear", loop=False), Look(columns=3, rows=2, size=8))
    frames = list(frames)
    assert len(frames) == count == 4
    assert frames[0].shape == (16, 24, 3) and frames[0].dtype == np.uint8
    for frame, which in ((frames[0], 0), (frames[3], 1)):
        cells = frame[::8, ::8, 0].flatten().tolist()
        assert cells == [grey(float(value)) for value in latents[which::2, 0]]


def test_captions_name_the_keys_below_their_cells():
    keys = Keyframes(torch.zeros(4, 2), ["1", "5", "9", "a long name"])
    plain = list(clip_frames(painter, keys, Travel(2), Look(2, 1, 64))[1])
    named = list(clip_frames(painter, keys, Travel(2), Look(2, 1, 64, captions=True))[1])
    height = bar_height(64)
    assert named[0].shape == (64 + height, 128, 3)
    assert all(np.array_equal(a, b[:64]) for a, b in zip(plain, named, strict=True))
    bars = [frame[64:] for frame in named]
    assert np.array_equal(bars[0], bars[1]) and not np.array_equal(bars[0], bars[2])  # 1 → 5, then 5 → 1
    assert not np.array_equal(bars[0][:, :64], bars[0][:, 64:])


def test_originals_stand_beside_the_pictures_at_the_moment_of_their_keys():
    latents = torch.tensor([[0.5, 0.5], [-0.5, -0.5]])
    pictures = torch.stack([torch.full((1, 4, 4), value) for value in (1.0, -1.0)])
    frames = list(clip_frames(painter, Keyframes(latents, ["a", "b"], pictures), Travel(10, "linear"), Look(size=4, beside=True))[1])
    assert frames[0].shape == (4, 8, 3) and len(frames) == 20
    left = [int(frame[0, 0, 0]) for frame in frames]
    assert left[:5] == [255] * 5 and left[6:15] == [0] * 9 and left[16:] == [255] * 4  # the nearer key's original
    assert left[5] in (127, 128) and left[15] in (127, 128)  # half-way one fades into the other
    assert [int(frames[i][0, 4, 0]) for i in (0, 10)] == [grey(0.5), grey(-0.5)]


# ---------------------------------------------------------------------------------------------- the verb

CONFIG = NetworkConfig(latent=6, channels_base=64, channels_max=8, convs=1, image_channels=3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle of random networks at 8x8."""
    made = {}
    for player in PLAYERS:
        made[player] = nets.build(CONFIG, player, 8).eval()
        nets.initialise(made[player], lambda name: torch.Generator().manual_seed(len(name)))
    folder = tmp_path_factory.mktemp("bundles") / "b"
    write_files(folder, CONFIG, 8, made, {}, "b")
    return folder


@pytest.fixture
def photographs(tmp_path):
    """Three pictures of a person's own, of different sizes, and one text file."""
    folder = tmp_path / "my pictures"
    folder.mkdir()
    for i, name in enumerate("abc"):
        Image.new("RGB", (20 + i, 30), (80 * i, 128, 200)).save(folder / f"{name}.jpg", quality=95)
    return folder


@pytest.fixture
def video(bundle, tmp_path, monkeypatch, capsys):
    """video(*overrides) -> (exit status, what was said, errors), in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides, sampler=bundle):
        capsys.readouterr()
        status = cli.main(["video", f"sampler={sampler}", *overrides])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_seeds_are_the_pictures_that_the_bundle_makes_of_them(video, bundle, tmp_path):
    status, said, errors = video("out=frames/", "seeds=3,11", "fps=2", "seconds_per_key=1", "path=linear", "size=8")
    assert (status, errors) == (0, "") and "4 frames" in said
    loaded = hires_bundle.load(bundle)
    for frame, seed in ((0, 3), (2, 11)):
        wanted = loaded.sample([seed])[0].clamp(-1, 1).add(1).mul(127.5).round().permute(1, 2, 0).numpy()
        found = np.asarray(Image.open(tmp_path / "frames" / f"frame{frame:06d}.png")).astype(int)
        assert np.abs(found - wanted).max() <= 1


@pytest.mark.parametrize("path", ["slerp", "linear", "spline", "walk", "circle"])
@pytest.mark.parametrize("loop", ["true", "false"])
def test_every_path_makes_a_clip_of_its_length(path, loop, video, tmp_path):
    keys, ways = (2, 4) if path == "circle" else (4, 4 if loop == "true" else 3)
    status, _, errors = video("out=clip.mp4", f"seeds=0-{keys - 1}", f"path={path}", f"loop={loop}", "fps=5", "seconds_per_key=0.6")
    assert (status, errors) == (0, "")
    clip = read(tmp_path / "clip.mp4")
    assert len(clip.pictures) == 3 * ways + (loop == "false")
    assert clip.rate == 5 and clip.size == (256, 256)


@pytest.mark.parametrize("out", ["c.webm", "c.gif", "c.mov", "c.mp4"])
def test_a_grid_with_captions_and_originals_in_every_container(out, video, photographs, tmp_path):
    four = ",".join(str(photographs / f"{name}.jpg") for name in "abca")
    look = ["grid=2x1", "captions=true", "beside=true", "size=32"]
    status, said, errors = video(f"out={out}", f"from={four}", *look, "fps=4", "easing=smooth")
    assert (status, errors) == (0, "") and "12 frames, 3.0 s" in said
    clip = read(tmp_path / out)
    assert len(clip.pictures) == 12 and clip.size == (128, 32 + bar_height(32))


def test_a_folder_of_pictures_is_encoded_travelled_and_decoded(video, bundle, photographs, tmp_path):
    status, _, errors = video("out=frames/", "from=my pictures", "fps=1", "seconds_per_key=1", "size=8", "loop=false")
    assert (status, errors) == (0, "")
    loaded = hires_bundle.load(bundle)
    from hires.media.pictures import read_pictures

    names, originals = read_pictures(str(photographs), 8, 3)
    wanted = loaded.generator(loaded.inference(originals)[0]).clamp(-1, 1).add(1).mul(127.5).round()
    assert len(names) == 3
    for i in range(3):
        found = np.asarray(Image.open(tmp_path / "frames" / f"frame{i:06d}.png")).astype(int)
        assert np.abs(found - wanted[i].permute(1, 2, 0).numpy()).max() <= 1


def test_saved_codes_are_the_keys(video, bundle, tmp_path):
    mu = hires_bundle.latents([3, 11], 6)
    save_file({"mu": mu, "logvar": torch.zeros(2, 6)}, tmp_path / "codes.safetensors", {"names": json.dumps(["x/a.jpg", "b"])})
    overrides = ["fps=2", "seconds_per_key=1", "size=64", "captions=true"]
    assert video("out=one/", "codes=codes.safetensors", *overrides)[0] == 0
    assert video("out=two/", "seeds=3,11", *overrides)[0] == 0
    for file in (tmp_path / "one").iterdir():
        one, two = (np.asarray(Image.open(tmp_path / folder / file.name)) for folder in ("one", "two"))
        assert np.array_equal(one[:64], two[:64]) and not np.array_equal(one, two)  # the captions differ


def test_a_limit_is_taken_before_keys_are_dealt_to_cells(video):
    status, said, errors = video("out=c.gif", "seeds=0-4", "limit=4", "grid=2x1", "size=8", "fps=10", "seconds_per_key=0.2")
    assert (status, errors) == (0, "") and "c.gif: 4 frames" in said


def test_a_strip_has_a_row_for_each_two_keys(video, bundle, tmp_path):
    status, said, errors = video("out=strip.png", "seeds=0-3", "path=linear", "steps=5")
    assert (status, errors) == (0, "") and "2 rows of 5" in said
    strip = np.asarray(Image.open(tmp_path / "strip.png")).astype(int)
    assert strip.shape == (2 * 66 + 2, 5 * 66 + 2, 3)
    loaded = hires_bundle.load(bundle)
    z = loaded.latents([0, 1, 2, 3])
    for row in range(2):
        for column in range(5):
            latent = z[2 * row] * (1 - column / 4) + z[2 * row + 1] * (column / 4)
            wanted = loaded.generator(latent[None])[0].clamp(-1, 1).add(1).mul(127.5).round().permute(1, 2, 0).numpy()
            cell = strip[2 + 66 * row : 66 + 66 * row : 8, 2 + 66 * column : 66 + 66 * column : 8]
            assert np.abs(cell - wanted).max() <= 1


def test_a_strip_of_pictures_begins_and_ends_with_the_originals(video, photographs, tmp_path):
    assert video("out=strip.png", "from=my pictures", "limit=2", "steps=4", "beside=true")[0] == 0
    strip = np.asarray(Image.open(tmp_path / "strip.png")).astype(int)
    assert strip.shape == (68, 6 * 66 + 2, 3)
    assert np.abs(strip[30, 30] - (0, 128, 200)).max() < 6 and np.abs(strip[30, -30] - (80, 128, 200)).max() < 6


BAD = {
    "no such ending": (["out=c.avi"], ["out=c.avi", ".mp4"]),
    "two sources": (["seeds=1,2", "codes=x.safetensors"], ["seeds=…", "codes=…", "one of"]),
    "seeds that are none": (["seeds=one"], ["seeds=one"]),
    "one seed": (["seeds=4"], ["1 keyframe", "at least 2"]),
    "no such path": (["path=bezier"], ["path=bezier", "slerp"]),
    "no such easing": (["easing=bounce"], ["easing=bounce", "smooth"]),
    "easing of a walk": (["path=walk", "easing=smooth"], ["path=walk", "easing=none"]),
    "a circle through five": (["path=circle"], ["path=circle", "5 keyframes", "wanted 2"]),
    "a grid that is none": (["grid=4"], ["grid=4", "4x2"]),
    "an empty grid": (["grid=0x2"], ["grid=0x2"]),
    "seeds that do not divide": (["grid=2x1", "seeds=0-4"], ["grid=2x1", "5 keyframes", "2 cells"]),
    "an odd size": (["size=255"], ["size=255", "8 pixels", "248", "256"]),
    "a size below the pictures'": (["size=4"], ["size=4", "8"]),
    "a frame too large": (["size=16392"], ["16392x16392", "16384"]),
    "no frames a second": (["fps=0"], ["fps=0"]),
    "too many for a gif": (["fps=60", "out=c.gif"], ["fps=60", "50"]),
    "no time": (["seconds_per_key=0"], ["seconds_per_key=0"]),
    "no number for a time": (["seconds_per_key=nan"], ["seconds_per_key=nan"]),
    "originals of seeds": (["beside=true", "seeds=0-3"], ["beside=true", "from=…"]),
    "a picture that is none": (["from=my pictures/note.txt"], ["note.txt"]),
    "no such pictures": (["from=nowhere"], ["nowhere"]),
    "no such codes": (["codes=none.safetensors"], ["codes=none.safetensors", "no such file"]),
    "codes that are none": (["codes=my pictures/note.txt"], ["note.txt", "safetensors"]),
    "codes without mu": (["codes=other.safetensors"], ["other.safetensors", "mu"]),
    "codes of another length": (["codes=long.safetensors"], ["long.safetensors", "9", "6"]),
    "codes that are no numbers": (["codes=nan.safetensors"], ["nan.safetensors", "finite"]),
    "a strip of three": (["out=c.png", "seeds=0-2"], ["c.png", "3 keyframes", "even"]),
    "a strip that walks": (["out=c.png", "path=walk"], ["c.png", "path=slerp or linear"]),
    "a strip with a grid": (["out=c.png", "grid=2x1"], ["c.png", "grid"]),
    "a strip of one": (["out=c.png", "steps=1"], ["steps=1"]),
    "no such device": (["device=tpu"], ["device=tpu"]),
    "a wrong key": (["frames=3"], ["frames"]),
    "frames among files": (["out=my pictures/"], ["my pictures", "exists already"]),
    "a folder that is a file": (["out=my pictures/note.txt/c.mp4"], ["c.mp4: not written"]),
}


@pytest.mark.parametrize(("overrides", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_leaves_nothing(overrides, words, video, photographs, tmp_path):
    (photographs / "note.txt").write_text("no picture")
    for name, mu in (("long", torch.zeros(2, 9)), ("nan", torch.full((2, 6), torch.nan))):
        save_file({"mu": mu}, tmp_path / f"{name}.safetensors")
    save_file({"z": torch.zeros(2, 6)}, tmp_path / "other.safetensors")
    before = sorted(tmp_path.rglob("*"))
    status, said, errors = video("out=c.mp4", *overrides)
    assert status == 1 and said == ""
    assert len(errors.splitlines()) == 1 and errors.startswith("hires video: error: ") and len(errors) < 300, errors
    assert all(word in errors for word in words), errors
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sampler_that_is_none_is_one_line(video, tmp_path):
    status, _, errors = video("out=c.mp4", sampler=tmp_path)
    assert status == 1 and "config.json: missing" in errors and len(errors.splitlines()) == 1


def test_a_generator_that_dies_is_not_swallowed_by_its_thread(bundle, video, monkeypatch, tmp_path):
    def forward(self, z):
        raise ValueError("out of luck")

    monkeypatch.setattr(hires_bundle._GrowingGenerator, "forward", forward)
    assert issubclass(hires_bundle._GrowingGenerator, nn.Module)
    with pytest.raises(ValueError, match="out of luck"):
        video("out=c.mp4")
    assert list(tmp_path.iterdir()) == []
