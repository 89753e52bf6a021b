"""Pictures of a page: grids come apart into the pixels that were put in, and the page's size is bounded."""

import base64
import io
from itertools import pairwise
import math

import numpy as np
from PIL import Image
import pytest
import torch

from hires.ground.images import save_grid, to_uint8
from hires.report import gallery
from hires.report.gallery import Album, cells, chosen, corner, sheet, whole
from hires.report.run import Grid


@pytest.mark.parametrize("side", [4, 8, 16, 64, 128])
@pytest.mark.parametrize(("count", "columns"), [(1, None), (6, None), (22, 11)])
def test_cells_are_the_pictures_that_were_saved(tmp_path, side, count, columns):
    """The inverse of save_grid, pixel by pixel, whatever it enlarged."""
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    save_grid(images, tmp_path / "grid.png", columns)
    found = cells(Image.open(tmp_path / "grid.png"), side)
    across = columns or math.ceil(math.sqrt(count))
    assert found.shape == (math.ceil(count / across), across, side, side, 3)
    assert np.array_equal(found.reshape(-1, side, side, 3)[:count], to_uint8(images).permute(0, 2, 3, 1).numpy())


def test_what_is_no_grid_is_shown_as_it_is(tmp_path):
    Image.new("RGB", (101, 77)).save(tmp_path / "odd.png")
    assert cells(Image.open(tmp_path / "odd.png"), 32) is None
    assert whole(Album(), Grid(tmp_path / "odd.png", "odd", 0, 32)).size == (101, 77)


def grid_file(folder, images=1, side=8, count=64):
    path = folder / f"fakes-{images:012d}-{side}x{side}.png"
    save_grid(torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(images)) * 2 - 1, path)
    return Grid(path, "fakes", images, side)


def test_a_sheet_is_no_wider_than_the_page(tmp_path):
    found = cells(Image.open(grid_file(tmp_path, side=256, count=16).path), 256)
    assert sheet(found, 500).width <= 510
    assert sheet(found[:, :, ::64, ::64], 500).width == 4 * (32 + 2) - 2  # smaller ones are enlarged by whole factors


def test_a_corner_is_the_first_cells(tmp_path):
    grid = grid_file(tmp_path)
    found = cells(Image.open(grid.path), 8)
    assert np.array_equal(np.asarray(corner(Album(), grid)), np.asarray(sheet(found[:4, :4], 10**6)))


def test_an_album_stops_at_its_limit_and_says_what_it_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "LIMIT", 20_000)
    album, added = Album(), []
    for k in range(5):
        noise = Image.fromarray(np.random.default_rng(k).integers(0, 256, (60, 60, 3), dtype=np.uint8))
        added.append(album.add(noise, f"picture {k}"))
    assert [address is not None for address in added] == [True, False, False, False, False]
    assert sum(len(address.partition(",")[2]) for address in added if address) == album.used <= 20_000
    assert [line.split(":")[0] for line in album.left_out] == [f"picture {k}" for k in range(1, 5)]


def test_a_small_picture_is_kept_without_loss_and_a_large_one_is_a_jpeg():
    album = Album()
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    address = album.add(small, "small")
    back = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert np.array_equal(np.asarray(back), np.asarray(small))
    noise = np.random.default_rng(0).normal(128, 20, (300, 300, 3)).clip(0, 255).astype(np.uint8)
    assert album.add(Image.fromarray(noise), "large").startswith("data:image/jpeg")


def test_a_file_that_is_no_picture_is_told(tmp_path):
    (tmp_path / "fakes.png").write_bytes(b"no picture")
    album = Album()
    assert whole(album, Grid(tmp_path / "fakes.png", "fakes", 1, 8)) is None
    assert album.left_out[0].startswith("fakes.png: not readable as a picture")


def test_a_strip_shows_the_first_the_last_and_the_end_of_each_level():
    grids = [Grid(None, "fakes", k, 4 if k < 40 else 8 if k < 41 else 16) for k in range(100)]
    places = [grid.images for grid in chosen(grids, 9)]
    assert len(places) == 9 and places == sorted(places)
    assert {0, 39, 40, 99} <= set(places)
    assert max(b - a for a, b in pairwise(places)) <= 30
    assert chosen(grids[:5]) == grids[:5]
