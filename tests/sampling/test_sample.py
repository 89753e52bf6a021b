"""`hires sample`: a seed is a picture, whatever is drawn beside it; what is kept; what lies on disk."""

import csv

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest
import torch

from hires import cli
from hires.bundle.hires_bundle import load
from hires.errors import HiresError
from hires.ground import images
from hires.sampling import drawing
from hires.sampling.choosing import lowest
from hires.sampling.drawing import draw
from hires.sampling.refining import LangevinConfig
from hires.sampling.seeds import parse_device, parse_seeds

REFINED = {
    "plain": LangevinConfig(),
    "latents": LangevinConfig(steps=3, space="latents"),
    "pictures": LangevinConfig(steps=3, noise=0.1),
}


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize("refine", REFINED.values(), ids=REFINED)
def test_a_seed_is_the_same_picture_in_any_list(sampler, refine):
    bundle = load(sampler)
    alone = {}

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.integers(0, 40), min_size=1, max_size=9, unique=True), st.integers(1, 4))
    def holds(seeds, at_once):
        drawing.pictures_at_once = lambda resolution: at_once  # batches of any size
        found = torch.cat([batch.pictures for batch in draw(bundle, seeds, 0.8, refine)])
        for seed, picture in zip(seeds, found, strict=True):
            if seed not in alone:
                (alone[seed],) = (batch.pictures[0] for batch in draw(bundle, [seed], 0.8, refine))
            # Langevin's steps amplify rounding; a grey level is 8e-3
            torch.testing.assert_close(picture, alone[seed], atol=1e-3 if refine.steps else 1e-4, rtol=0)

    kept = drawing.pictures_at_once
    try:
        holds()
    finally:
        drawing.pictures_at_once = kept
    assert len({tuple(picture.flatten().tolist()) for picture in alone.values()}) == len(alone)


def test_truncation_scales_latents(sampler):
    bundle = load(sampler)
    (batch,) = draw(bundle, [3, 4], 0.5)
    with torch.no_grad():
        torch.testing.assert_close(batch.pictures, bundle.generator(0.5 * bundle.latents([3, 4])).clamp(-1, 1))
        torch.testing.assert_close(batch.energies, bundle.energy(batch.pictures))
    assert torch.equal(batch.energies, batch.before)


@pytest.mark.parametrize("space", ["latents", "pictures"])
def test_downhill_steps_lower_the_energy(sampler, space):
    bundle, seeds = load(sampler), list(range(16))
    (batch,) = draw(bundle, seeds, refine=LangevinConfig(steps=10, step_size=0.1, noise=0.0, space=space))
    (plain,) = draw(bundle, seeds)
    torch.testing.assert_close(batch.before, plain.energies)
    if space == "pictures":
        assert (batch.energies < batch.before).all()
    else:  # downhill is the energy plus |w|^2 / 2, so that pictures near the prior's mean win, whatever their energy
        assert not torch.allclose(batch.pictures, plain.pictures, atol=1e-3)


def test_refined_latents_stay_among_the_generators_pictures(sampler, monkeypatch):
    """With an energy that is 0 everywhere, refinement at noise 1 leaves the prior as it is."""
    bundle = load(sampler)
    monkeypatch.setattr(bundle, "energy", lambda x: 0 * x.flatten(1).sum(1))
    latents = []
    monkeypatch.setattr(bundle, "generator", lambda w, generate=bundle.generator: latents.append(w.detach()) or generate(w))
    (_,) = draw(bundle, list(range(64)), refine=LangevinConfig(steps=100, step_size=0.5, space="latents"))
    assert latents[-1].var().item() == pytest.approx(1 / (1 - 0.5**2 / 4), rel=0.2)  # 512 values: known to 6%


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=20), st.floats(0.01, 1))
def test_the_lowest_are_kept_in_order(energies, keep):
    kept = lowest(torch.tensor(energies), keep)
    found = [energies[i] for i in kept]
    assert found == sorted(energies)[: len(kept)] and len(set(kept)) == len(kept)
    assert abs(len(kept) - keep * len(energies)) <= 0.5 or len(kept) == 1


def test_an_energy_that_is_no_number_is_not_sorted():
    with pytest.raises(HiresError, match="1 of 2 energies are not finite"):
        lowest(torch.tensor([1.0, float("nan")]), 1.0)


def test_a_folder_of_numbered_files(sampler, tmp_path, capsys):
    out = tmp_path / "new" / "pictures"
    assert cli.main(["sample", f"sampler={sampler}", "seeds=12,3,12", f"out={out}/"]) == 0
    assert "2 pictures" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["seed000003.png", "seed000012.png"]
    assert [path.name for path in out.parent.iterdir()] == ["pictures"]
    wanted = images.to_uint8(load(sampler).sample([12]))[0].permute(1, 2, 0).int().numpy()
    assert abs(pixels(out / "seed000012.png") - wanted).max() <= 1  # bytes of one picture, of any batch
    assert cli.main(["sample", f"sampler={sampler}", "seeds=3", f"out={out}"]) == 1  # never over another
    assert "exists already" in capsys.readouterr().err
    assert len(list(out.iterdir())) == 2


def test_the_half_of_lowest_energy_in_a_grid_and_in_a_folder(sampler, tmp_path, capsys):
    bundle, seeds = load(sampler), list(range(9))
    with torch.no_grad():
        pictures = bundle.sample(seeds).clamp(-1, 1)
        energies = bundle.energy(pictures)
    order = sorted(seeds, key=lambda seed: energies[seed].item())[:5]  # round(4.5) = 5
    command = ["sample", f"sampler={sampler}", "seeds=0-8", "top_by=energy", "keep=0.5"]
    assert cli.main([*command, f"out={tmp_path}/top.png"]) == 0
    told = capsys.readouterr().out
    assert "seed (energy): " + ", ".join(f"{seed} ({energies[seed]:.4f})" for seed in order) in " ".join(told.split())
    images.save_grid(pictures[order], tmp_path / "wanted.png")
    assert abs(pixels(tmp_path / "top.png") - pixels(tmp_path / "wanted.png")).max() <= 1
    assert cli.main([*command, f"out={tmp_path}/top"]) == 0
    with (tmp_path / "top" / "energies.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"seed{seed:06d}.png" for seed in order]
    assert [float(row["energy"]) for row in rows] == pytest.approx([energies[seed].item() for seed in order], abs=1e-4)
    assert {path.name for path in (tmp_path / "top").iterdir()} == {row["file"] for row in rows} | {"energies.csv"}


def test_refinement_is_told(sampler, tmp_path, capsys):
    command = ["sample", f"sampler={sampler}", "seeds=0-3", f"out={tmp_path}/a.png", "langevin.steps=5"]
    assert cli.main(command) == 0
    assert "lower for 4 of 4 pictures" in capsys.readouterr().out


def test_a_full_disk_leaves_no_folder(sampler, tmp_path, monkeypatch, capsys):
    def full(path, picture, kept=images._save):
        if "seed000002" in path.name:
            raise OSError(28, "No space left on device", str(path))
        kept(path, picture)

    monkeypatch.setattr(images, "_save", full)
    assert cli.main(["sample", f"sampler={sampler}", "seeds=0-3", f"out={tmp_path}/a"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "not written: No space left on device" in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_seeds_as_a_person_writes_them():
    assert parse_seeds("0-3, 9,5-5") == [0, 1, 2, 3, 9, 5]
    assert parse_seeds(str(2**32 - 1)) == [2**32 - 1]
    for text in ("", "a", "5-3", "1,,2", "-1", "0-99999999999", str(2**32), "0-999999,7"):
        with pytest.raises(HiresError, match="seeds="):
            parse_seeds(text)


def test_a_device_that_is_not_there_is_one_line():
    assert parse_device("cpu").type == "cpu"
    for text in ("gpu", "cuda:99", "cuda:x", "mps"):
        with pytest.raises(HiresError, match=f"device={text}"):
            parse_device(text)
