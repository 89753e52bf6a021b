"""`hires restore` against what is known of its steps on a bowl, its masks and its measures, and the verb on a bundle."""

import csv
import math

import numpy as np
from PIL import Image
import pytest
import torch

from hires.bundle.hires_bundle import Bundle
from hires.errors import HiresError
from hires.ground.ranges import check_ranges
from hires.sampling.refining import LangevinConfig
from hires.sampling.restoring import Steps, corrupt, errors, guess, psnr, restore, steps_of, unknown_pixels
from hires.verbs import restore as verb
from hires.verbs.restore import Config as RestoreConfig

CHAINS = {"steps": 7, "step_size": 0.05, "noise": 0.02, "reach": 0.1}
FLAT = 0.25  # where the bowl's bottom is


def bowl(x):
    return (x - FLAT).square().flatten(1).sum(1) / 2


def bundle(chains=None, resolution=8):
    config = {"image_channels": 1} | ({"chains": chains} if chains else {})
    return Bundle(config, torch.device("cpu"), None, None, bowl, resolution, 4)


def pictures(count=3):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.5


def test_without_noise_each_step_takes_the_same_share_of_a_bowl():
    y = corrupt(pictures(), 0.3, None, seed=0)
    found = restore(bundle(), y, Steps(5, 0.2, 0.0, math.inf), None, seed=0)
    torch.testing.assert_close(found, FLAT + (y - FLAT) * 0.8**5)
    far = restore(bundle(), y, Steps(1, 0.2, 0.0, 0.01), None, seed=0)
    assert ((far - y).abs() <= 0.01 + 1e-6).all() and (far - y).abs().max() > 0.009  # reach


def test_noise_has_its_size_and_belongs_to_the_picture_and_the_step():
    y, still = torch.zeros(3, 1, 8, 8), Bundle({}, torch.device("cpu"), None, None, lambda x: 0 * x.flatten(1).sum(1), 8, 4)
    found = restore(still, y, Steps(1, 1.0, 0.1, 1.0), None, seed=5)
    assert found.std().item() == pytest.approx(0.1, rel=0.2)
    assert torch.equal(restore(still, y[:2], Steps(1, 1.0, 0.1, 1.0), None, seed=5), found[:2])
    assert (restore(still, y, Steps(2, 1.0, 0.1, 1.0), None, seed=5) - 2 * found).abs().max() > 0.05


@pytest.mark.parametrize("mask", ["center", "left", "bottom", "random:0.5"])
def test_inpainting_moves_the_unknown_pixels_alone(mask):
    x = pictures()
    unknown = unknown_pixels(mask, 8, 3, seed=2)
    y = corrupt(x, 0.3, unknown, seed=2)
    found, free = restore(bundle(), y, Steps(60, 0.2, 0.0, math.inf), unknown, seed=2), unknown.expand_as(x)
    assert torch.equal(y[~free], x[~free]) and torch.equal(found[~free], x[~free])
    assert (found[free] - FLAT).abs().max() < 1e-4 and (y[free] - x[free]).abs().min() > 0


def test_masks_are_where_they_say(tmp_path):
    parts = {name: unknown_pixels(name, 8, 1, 0)[0, 0] for name in ("center", "left", "bottom")}
    assert parts["center"].nonzero().unique().tolist() == [2, 3, 4, 5] and parts["center"].sum() == 16
    assert parts["left"][:, :4].all() and not parts["left"][:, 4:].any() and torch.equal(parts["bottom"], parts["left"].T.flip(0))
    some = unknown_pixels("random:0.3", 64, 2, 0)
    assert some.float().mean().item() == pytest.approx(0.3, abs=0.03) and not torch.equal(some[0], some[1])
    pixels = np.zeros((8, 8), np.uint8)
    pixels[1, 6] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    assert unknown_pixels(str(tmp_path / "mask.png"), 8, 2, 0)[1, 0].nonzero().tolist() == [[1, 6]]
    Image.fromarray(0 * pixels).save(tmp_path / "none.png")
    with pytest.raises(HiresError, match="no pixel is unknown"):
        unknown_pixels(str(tmp_path / "none.png"), 8, 1, 0)


def test_errors_are_those_of_the_unknown_pixels_and_a_tenth_of_the_range_is_20_db():
    x, unknown = torch.zeros(2, 3, 8, 8), unknown_pixels("left", 8, 2, 0)
    found = torch.where(unknown, x + 0.2, x + 0.9)
    assert psnr(errors(x, found, unknown)).tolist() == pytest.approx([20, 20])
    assert errors(x, found, None).tolist() == pytest.approx([(0.04 + 0.81) / 2] * 2)
    assert guess(found, unknown)[0, 0, 0].tolist() == pytest.approx([0.9] * 8)


def test_the_bundles_own_steps_hold_unless_others_are_given():
    own = steps_of(bundle(CHAINS), LangevinConfig(steps=3))
    assert (own.count, own.size, own.noise, own.reach) == (3, pytest.approx(0.05 * 64), 0.02, 0.1)
    other = steps_of(bundle(CHAINS), LangevinConfig(steps=3, step_size=0.5, noise=2.0))
    assert (other.size, other.noise, other.reach) == (0.125, 1.0, 0.1)
    none = steps_of(bundle(), LangevinConfig())
    assert (none.size, none.noise, none.reach) == (pytest.approx((0.02 * 8) ** 2 / 2), 0.0, math.inf)


@pytest.mark.parametrize("task", ["denoise", "inpaint"])
def test_the_verb_writes_a_sheet_and_a_table(task, sampler, save_pictures, tmp_path, capsys):
    folder = save_pictures(tmp_path / "in", 3)
    config = RestoreConfig(str(sampler), str(folder), str(tmp_path / "x.png"), task, langevin=LangevinConfig(steps=2), show=2, device="cpu")
    verb.run(config)
    told = capsys.readouterr().out
    assert "2 steps" in told and task in told and ("mean colour" in told) == (task == "inpaint")
    with (tmp_path / "x.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"][-7:] for row in rows] == ["000.png", "001.png", "002.png"]
    for row in rows:
        assert float(row["psnr_after"]) == pytest.approx(10 * math.log10(4 / float(row["mse_after"])), abs=1e-3)
    assert Image.open(tmp_path / "x.png").size[0] >= 3 * 128


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task": "sharpen"}, "task=sharpen: wanted denoise or inpaint"),
        ({"noise": 0.0}, "noise=0.0: wanted a number above 0"),
        ({"task": "inpaint", "mask": "middle"}, "mask=middle: wanted center, left"),
        ({"task": "inpaint", "mask": "random:2"}, "mask=random:2: wanted a share"),
        ({"task": "inpaint", "mask": "nowhere.png"}, "mask=nowhere.png: no such file"),
        ({"out": "x.jpg"}, "out=x.jpg: wanted the name of a .png"),
        ({"langevin": LangevinConfig(space="latents")}, "langevin.space=latents"),
        ({"langevin": LangevinConfig(steps=-1)}, "langevin.steps=-1"),
        ({"show": 0}, "show=0: wanted at least 1"),
    ],
)
def test_what_cannot_work_is_one_line_and_writes_nothing(wrong, message, sampler, save_pictures, tmp_path):
    folder = save_pictures(tmp_path / "in", 1)
    settings = {"sampler": str(sampler), "from_": str(folder), "out": str(tmp_path / "x.png"), "device": "cpu"}
    config = RestoreConfig(**settings | wrong)
    with pytest.raises(HiresError, match=message):
        check_ranges(config)  # as the command does before
        verb.run(config)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
