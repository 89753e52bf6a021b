"""`hires reconstruct`: errors, codes and the sheet."""

import json

import numpy as np
from PIL import Image
import pytest
from safetensors import safe_open
import torch

from hires import cli
from hires.bundle.hires_bundle import load
from hires.evaluation.reconstruction import errors
from hires.ground.images import to_uint8
from hires.media.pictures import read_pictures
from hires.media.sheets import CELL, GAP, LINE, MARGIN, TITLE, save_sheet


def test_errors_and_codes_are_those_of_the_bundle(sampler, save_pictures, tmp_path, capsys):
    folder, bundle = save_pictures(tmp_path / "files", 70), load(sampler)  # more than one batch
    names, pictures = read_pictures(str(folder), 8, 3)
    command = ["reconstruct", f"sampler={sampler}", f"from={folder}", f"out={tmp_path}/sheet.png", "show=5"]
    assert cli.main([*command, f"codes={tmp_path}/codes.safetensors"]) == 0
    overall = errors(bundle.generator, lambda x: bundle.inference(x)[0], pictures).mean().item()
    told = capsys.readouterr().out
    assert f"5 of 70 pictures; over all 70: mse {overall:.4f}, rmse {overall**0.5:.4f} on [-1, 1]" in told
    assert told.count("000.png: mse ") == 1 and "005.png" not in told
    with safe_open(tmp_path / "codes.safetensors", "pt") as codes, torch.no_grad():
        mu, logvar = bundle.inference(pictures)
        torch.testing.assert_close(codes.get_tensor("mu"), mu, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(codes.get_tensor("logvar"), logvar, atol=1e-5, rtol=1e-4)
        assert codes.get_tensor("mse").double().mean().item() == pytest.approx(overall, rel=1e-5)
        assert json.loads(codes.metadata()["names"]) == names
    assert {path.name for path in tmp_path.iterdir()} == {"files", "sheet.png", "codes.safetensors"}


def test_the_sheet_holds_each_picture_beside_its_reconstruction(sampler, save_pictures, tmp_path):
    folder, bundle = save_pictures(tmp_path / "files", 2), load(sampler)
    assert cli.main(["reconstruct", f"sampler={sampler}", f"from={folder}", f"out={tmp_path}/sheet.png"]) == 0
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    _, pictures = read_pictures(str(folder), 8, 3)
    with torch.no_grad():
        shown = to_uint8(torch.stack([pictures, bundle.generator(bundle.inference(pictures)[0])], 1)).int().numpy()
    middle, strip = CELL // 16, 2 * (CELL + GAP) - GAP + MARGIN
    for i in range(2):
        for k in range(2):
            left = MARGIN + i * strip + k * (CELL + GAP)
            cell = sheet[MARGIN + TITLE + LINE :, left:][middle : CELL : CELL // 8, middle : CELL : CELL // 8]
            assert abs(cell - shown[i, k].transpose(1, 2, 0)).max() <= 1


def test_a_sheet_of_long_names_many_strips_or_large_pictures_is_drawn(tmp_path):
    names = ["x" * 300, "tab\tand\nline", "naïve 顔.png"]
    save_sheet(tmp_path / "a.png", torch.zeros(3, 2, 1, 4, 4), names, ["original", "reconstruction"], "y" * 999)
    save_sheet(tmp_path / "b.png", torch.zeros(1, 1, 3, 256, 256), [""], [""], "")
    assert Image.open(tmp_path / "a.png").size == (3 * (2 * CELL + GAP + MARGIN) + MARGIN, 2 * MARGIN + TITLE + LINE + CELL + LINE + GAP)
    assert Image.open(tmp_path / "b.png").size[0] == 256 + 2 * MARGIN
