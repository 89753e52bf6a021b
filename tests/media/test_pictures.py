"""Pictures of a user's own as tensors."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest
import torch

from hires.errors import HiresError
from hires.media.pictures import picture_batches, read_picture, read_pictures
from pipelines import PrepareConfig, SplitConfig, prepare


def png(pixels, form="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def random(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_a_picture_is_its_centre_square_reduced_by_means_of_areas():
    pixels = random(8, 14)
    centre = np.floor(pixels[:, 3:11].astype(float).reshape(4, 2, 4, 2, 3).mean((1, 3)) + 0.5).transpose(2, 0, 1)
    found = read_picture(png(pixels), 4, 3)
    assert found.shape == (3, 4, 4) and found.dtype == torch.float32
    np.testing.assert_allclose((found.numpy() + 1) * 127.5, centre, atol=1e-3)  # rounded to bytes


def test_a_picture_of_the_right_size_keeps_its_values():
    pixels = random(8, 8)
    assert torch.equal(read_picture(png(pixels), 8, 3), torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1)
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert torch.equal(read_picture(png(grey), 8, 1)[0], torch.from_numpy(grey).float() / 127.5 - 1)


def test_a_photograph_is_turned_as_its_exif_says(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # bright above as stored; orientation 6 = the stored top is the right side
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(png(pixels, "JPEG", quality=100, exif=exif))
    found = read_picture(tmp_path / "a.jpg", 4, 3)
    assert (found[:, :, 2:] > 0.9).all() and (found[:, :, :2] < -0.9).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(4, 40), st.integers(4, 40), st.sampled_from([4, 8, 32]), st.sampled_from([1, 3]), st.sampled_from(["PNG", "BMP", "WEBP"])
)
def test_any_size_and_format_becomes_the_shape_asked_for(width, height, resolution, channels, form):
    found = read_picture(png(random(height, width), form), resolution, channels)
    assert found.shape == (channels, resolution, resolution)
    assert found.min() >= -1 and found.max() <= 1


def test_a_folder_is_read_at_any_depth_in_the_order_of_names(tmp_path, save_pictures):
    save_pictures(tmp_path / "b", 2)
    save_pictures(tmp_path / "a" / "deep", 1, start=7)
    save_pictures(tmp_path / ".hidden", 1)
    (tmp_path / "notes.txt").write_text("not read")
    names, pictures = read_pictures(str(tmp_path), 4, 3)
    assert names == [str(tmp_path / name) for name in ("a/deep/007.png", "b/000.png", "b/001.png")]
    assert torch.equal(pictures[2], read_picture(tmp_path / "b" / "001.png", 4, 3))
    assert read_pictures(str(tmp_path), 4, 3, limit=2)[0] == names[:2]
    listed, _ = read_pictures(f"{names[1]},{names[0]}", 4, 3)
    assert listed == [names[1], names[0]]  # a list keeps its own order


def test_a_name_with_a_comma_is_one_file(tmp_path):
    (tmp_path / "a, b.png").write_bytes(png(random(4, 4)))
    assert read_pictures(str(tmp_path / "a, b.png"), 4, 3)[0] == [str(tmp_path / "a, b.png")]


def test_more_pictures_than_a_batch_all_come_once(tmp_path, save_pictures):
    save_pictures(tmp_path, 150, size=4)
    names = [name for part, pictures in picture_batches(str(tmp_path), 4, 3) for name in part if len(part) == len(pictures) <= 64]
    assert names == sorted(map(str, tmp_path.iterdir()))
    drawn = [name for part, _ in picture_batches(str(tmp_path), 4, 3, 20, drawn=True) for name in part]
    assert len(set(drawn)) == 20 and drawn != names[:20]
    assert drawn == [name for part, _ in picture_batches(str(tmp_path), 4, 3, 20, drawn=True) for name in part]


def test_prepared_data_give_the_pictures_that_the_folder_gives(tmp_path, save_pictures):
    """A sampler gets of a file what it was trained on of the same file."""
    save_pictures(tmp_path / "files", 9, size=24)
    split = SplitConfig(holdout=4)
    prepare(PrepareConfig(path=str(tmp_path / "files"), out=str(tmp_path / "data"), resolution=16, split=split, workers=1))
    keys, pictures = read_pictures(str(tmp_path / "data"), 8, 3)
    assert len(keys) == 4
    for key, picture in zip(keys, pictures, strict=True):
        assert torch.equal(picture, read_picture(tmp_path / "files" / f"{key}.png", 8, 3))
    trained = [key for part, _ in picture_batches(str(tmp_path / "data"), 8, 3, split="train") for key in part]
    assert len(trained) == 5 and not set(trained) & set(keys)
    assert torch.equal(read_pictures(str(tmp_path / "data"), 16, 3)[1][0], read_picture(tmp_path / "files" / f"{keys[0]}.png", 16, 3))
    with pytest.raises(HiresError, match="prepared with 3 channels; wanted 1"):
        read_pictures(str(tmp_path / "data"), 8, 1)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(oops) print\n"
BAD = {
    "text": (b"hello, this is no picture", "25 bytes that are no picture"),
    "nothing": (b"", "0 bytes; wanted a picture"),
    "cut short": (png(random(30, 30))[:900], "cannot be decoded"),
    "a program": (POSTSCRIPT, "no picture"),  # which Pillow would hand to another program
    "too small": (png(random(3, 9)), "9x3 pixels; wanted at least 4x4"),
    "floating point": (png(np.zeros((8, 8), np.float32), "TIFF"), "floating-point pixels"),
    "too large": (png(np.zeros((60, 60), np.uint8)), "more than 2,000 pixels"),
}


@pytest.mark.parametrize("data,words", BAD.values(), ids=BAD)
def test_what_is_no_picture_is_one_line(data, words, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (tmp_path / "x.png").write_bytes(data)
    for source, name in ((data, "upload"), (tmp_path / "x.png", str(tmp_path / "x.png"))):
        with pytest.raises(HiresError) as caught:
            read_picture(source, 4, 3, name)
        text = str(caught.value)
        assert text.startswith(f"{name}: ") and words in text and "\n" not in text, text
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_places_without_pictures_are_one_line(tmp_path, save_pictures):
    (tmp_path / "empty").mkdir()
    save_pictures(tmp_path / "some", 1)
    wanted = {
        str(tmp_path / "empty"): "empty: no picture found",
        str(tmp_path / "none"): "none: no such file or folder",
        f"{tmp_path}/some/000.png,{tmp_path}/none.png": "none.png: no such file or folder",
        f"{tmp_path}/some/000.png,{tmp_path}/some": "some: a folder inside a list",
        "": "no picture named",
        " , ": "no picture named",
    }
    for where, words in wanted.items():
        with pytest.raises(HiresError) as caught:
            read_pictures(where, 4, 3)
        assert words in str(caught.value) and "path=" not in str(caught.value) and "\n" not in str(caught.value)
