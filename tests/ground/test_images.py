"""Bytes and grids."""

import numpy as np
from PIL import Image
import pytest
import torch

from hires.errors import HiresError
from hires.ground.files import whole_folder
from hires.ground.images import enlarge, save_each, save_grid, to_uint8


def test_to_uint8_clamps_and_rounds_to_the_nearest():
    values = torch.tensor([-9.0, -1.0, -1 + 1.01 / 255, 0.0, 1 - 1.01 / 255, 1.0, 9.0]).view(1, 1, 1, 7)
    assert to_uint8(values).flatten().tolist() == [0, 0, 1, 128, 254, 255, 255]
    exact = torch.arange(256).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(exact / 127.5 - 1), exact.to(torch.uint8))
    assert torch.equal(to_uint8(torch.tensor([[[[0.5]]]], dtype=torch.bfloat16)).flatten(), torch.tensor([191], dtype=torch.uint8))


def test_enlarge_repeats_pixels_by_a_whole_number():
    x = torch.arange(4).view(1, 1, 2, 2)
    assert enlarge(x, 3)[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert enlarge(x, 2) is x


def test_grid_is_readable_rgb_in_reading_order(tmp_path):
    grey = torch.linspace(-1, 1, 6).view(6, 1, 1, 1).expand(6, 1, 4, 4)
    save_grid(grey, tmp_path / "new" / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "new" / "grid.png"))
    assert picture.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    assert [int(picture[33 + 66 * (i // 3), 33 + 66 * (i % 3), 0]) for i in range(6)] == [0, 51, 102, 153, 204, 255]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["grid.png"]
    save_grid(torch.zeros(3, 3, 128, 128), tmp_path / "row.png", columns=3)
    assert Image.open(tmp_path / "row.png").size == (3 * 130 + 2, 132)


def test_a_grid_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(HiresError, match=r"wanted \(N, 1 or 3, H, W\)"):
        save_grid(torch.zeros(1, 2, 4, 4), tmp_path / "grid.png")
    with pytest.raises(HiresError, match="N at least 1"):
        save_grid(torch.zeros(0, 3, 4, 4), tmp_path / "grid.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(HiresError, match="not written"):
        save_grid(torch.zeros(1, 3, 4, 4), tmp_path / "file" / "grid.png")


def test_a_failure_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    save_grid(torch.zeros(1, 3, 4, 4), tmp_path / "grid.png")
    before = (tmp_path / "grid.png").read_bytes()

    def cut(self, path, format):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", cut)
    with pytest.raises(HiresError, match=r"grid\.png: not written: No space left on device"):
        save_grid(torch.ones(1, 3, 4, 4), tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_each_picture_is_a_file_of_its_bytes(tmp_path):
    pictures = torch.rand(200, 3, 5, 4, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2  # more than wait at once
    assert save_each((tmp_path / f"{i}.png", picture) for i, picture in enumerate(pictures)) == 200
    for i in (0, 77, 199):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"{i}.png")), to_uint8(pictures)[i].permute(1, 2, 0).numpy())
    save_each([(tmp_path / "grey.png", pictures[0, :1])])
    assert Image.open(tmp_path / "grey.png").mode == "L"


def test_what_makes_pictures_may_fail(tmp_path):
    def pictures():
        yield tmp_path / "a.png", torch.zeros(3, 4, 4)
        raise HiresError("no more")

    with pytest.raises(HiresError, match="no more"), whole_folder(tmp_path / "out"):
        save_each(pictures())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with whole_folder(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out" / "a").read_text() == "a"
    (tmp_path / "empty").mkdir()
    with whole_folder(tmp_path / "empty") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "empty" / "a").exists()


def test_a_folder_with_something_in_it_is_left_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    monkeypatch.chdir(tmp_path / "out")
    for path in (tmp_path / "out", ".", tmp_path / "out" / "mine"):
        with pytest.raises(HiresError, match="exists already"), whole_folder(path):
            raise AssertionError("nothing is begun")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]
