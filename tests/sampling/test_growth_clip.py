"""A run as it grew: each checkpoint's own pictures, with its α, under its own caption."""

from itertools import pairwise
import shutil

import numpy as np
from PIL import Image
import pytest
import torch

from hires import cli
from hires.bundle import from_run
from hires.bundle.hires_bundle import latents
from hires.checkpoints import reading
from hires.errors import HiresError
from hires.ground import distributed
from hires.media.captions import bar_height, caption
from hires.sampling.growth_clip import pictures_of, stages
from tests.sampling.clips import read

SEEDS = [3, 5]


@pytest.fixture(scope="module")
def grown(world, tiny, tmp_path_factory):
    """A run of digits through 4x4, a fade-in and 8x8, with a checkpoint each 16 images."""
    run = tmp_path_factory.mktemp("runs") / "grown"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "start", lambda *_, **__: world)
        patch.setattr(distributed, "stop", lambda: None)
        assert cli.main(["train", *tiny, f"run={run}", "train.checkpoint_every=16"]) == 0
    return run


@pytest.fixture
def growth(grown, tmp_path, monkeypatch, capsys):
    """growth(*overrides) -> (exit status, what was said, errors), in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides, run=grown):
        capsys.readouterr()
        status = cli.main(["video", "growth", f"run={run}", *overrides])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_the_stages_are_the_run_in_order(grown):
    found = stages(str(grown))
    assert [s.images for s in found] == sorted(s.images for s in found) and len(found) >= 6
    assert (found[0].resolution, found[-1].resolution, found[-1].fading) == (4, 8, False)
    fading = [s for s in found if s.fading]
    assert fading and any(0 < s.alpha < 1 for s in fading)
    assert found[-1].caption() == f"8×8 · {found[-1].images:,} images"
    assert fading[0].caption() == f"8×8 · {fading[0].images:,} images · α {fading[0].alpha:.2f}"


def test_every_checkpoint_shows_its_own_pictures_while_it_stands(growth, grown, tmp_path):
    status, said, errors = growth("out=frames/", "seeds=3,5", "grid=2x1", "size=16", "fps=4", "seconds_per_checkpoint=1")
    assert (status, errors) == (0, "")
    found = stages(str(grown))
    assert f"{len(found)} checkpoints, {4 * len(found)} frames" in said
    frames = [np.asarray(Image.open(path)).astype(int) for path in sorted((tmp_path / "frames").iterdir())]
    assert len(frames) == 4 * len(found)
    seen = []
    for i, stage in enumerate(found):
        loaded = from_run.load(str(grown), str(stage.images))
        z, generator = latents(SEEDS, loaded.config.network.latent), loaded.networks["generator"]
        with torch.no_grad():
            pictures = generator(z, stage.alpha).clamp(-1, 1).add(1).mul(127.5).round()
        for column in range(2):
            enlarged = pictures[column, 0].repeat_interleave(16 // stage.resolution, 0).repeat_interleave(16 // stage.resolution, 1)
            for moment in (0, 1):  # it stands for the first half
                cell = frames[4 * i + moment][:16, 16 * column : 16 * column + 16]
                assert np.abs(cell - enlarged[..., None].numpy()).max() <= 1
        assert np.array_equal(frames[4 * i][16:], caption(stage.caption(), 32, bar_height(16)))
        seen.append(frames[4 * i][:16])
    assert all(not np.array_equal(a, b) for a, b in pairwise(seen))  # training went on between them
    middle = frames[4 * 2 + 3][:16]  # between the third and the fourth
    low, high = np.minimum(seen[2], seen[3]) - 1, np.maximum(seen[2], seen[3]) + 1
    assert ((low <= middle) & (middle <= high)).all()
    assert not np.array_equal(middle, seen[2]) and not np.array_equal(middle, seen[3])


def test_half_way_through_a_fade_in_the_blend_is_shown(growth, grown, tmp_path):
    """Its α matters: the same checkpoint at α = 1 is another picture."""
    stage = next(s for s in stages(str(grown)) if s.fading and 0 < s.alpha < 1)
    loaded = from_run.load(str(grown), str(stage.images))
    with torch.no_grad():
        blended, full = (loaded.networks["generator"](latents(SEEDS, 8), alpha) for alpha in (stage.alpha, 1.0))
    assert (blended - full).abs().max() > 2 / 127.5


def test_a_growth_clip_plays_everywhere(growth, grown, tmp_path):
    status, _, errors = growth("out=growth.mp4", "fps=10", "seconds_per_checkpoint=0.4")
    assert (status, errors) == (0, "")
    clip = read(tmp_path / "growth.mp4")
    assert len(clip.pictures) == 4 * len(stages(str(grown))) and clip.rate == 10
    assert clip.size == (1024, 512 + bar_height(512)) and clip.pixels == "yuv420p"


def test_levels_that_are_gone_are_told_in_a_line(growth, grown, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(grown, run)
    for stage in stages(str(run)):
        if stage.resolution == 4:
            shutil.rmtree(stage.path)
    status, said, errors = growth("out=growth.gif", "seeds=1", "grid=1x1", "size=16", "fps=10", run=run)
    assert (status, errors) == (0, "")
    assert "no checkpoint left of 4x4" in said.splitlines()[0]


BAD = {
    "no such run": (["run=nowhere"], ["run=nowhere", "no such folder"]),
    "a run without checkpoints": (["run=."], ["run=.", "no checkpoint"]),
    "seeds and cells": (["seeds=0-3"], ["seeds=0-3", "4 seeds", "8 cells"]),
    "a strip": (["out=c.png"], ["c.png", ".mp4"]),
    "a size that is no multiple": (["size=20"], ["size=20", "8 pixels"]),
    "no rate": (["fps=0"], ["fps=0"]),
    "no time": (["seconds_per_checkpoint=-1"], ["seconds_per_checkpoint=-1"]),
    "a key of the other verb": (["path=walk"], ["path"]),
}


@pytest.mark.parametrize(("overrides", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_leaves_nothing(overrides, words, growth, tmp_path):
    status, said, errors = growth("out=c.mp4", *overrides)
    assert status == 1 and said == ""
    assert len(errors.splitlines()) == 1 and errors.startswith("hires video growth: error: "), errors
    assert all(word in errors for word in words), errors
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_given_is_named(growth, capsys):
    assert cli.main(["video", "growth", "out=c.mp4"]) == 1
    assert capsys.readouterr().err == "hires video growth: error: run=… not given\n"


def test_a_checkpoint_that_training_has_removed_is_no_earlier_one(grown, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(grown, run)
    gone = stages(str(run))[2]
    shutil.rmtree(gone.path)
    with pytest.raises(HiresError, match=f"{gone.path.name}: removed"):
        pictures_of(str(run), gone, SEEDS, torch.device("cpu"))


def test_a_damaged_checkpoint_is_one_line_and_leaves_nothing(growth, grown, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(grown, run)
    damaged = stages(str(run))[2].path
    shard = next(damaged.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    status, _, errors = growth("out=c.mp4", "fps=5", "size=16", run=run)
    assert status == 1 and damaged.name in errors and len(errors.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    (damaged / reading.MANIFEST).write_text("{")
    status, _, errors = growth("out=c.mp4", run=run)
    assert status == 1 and damaged.name in errors and len(errors.splitlines()) == 1


def test_help_of_both_is_its_own(capsys):
    assert cli.main(["video", "growth", "--help"]) == 0
    assert "video growth run=" in capsys.readouterr().out
    assert cli.main(["video", "--help"]) == 0
    assert "sampler=bundle" in capsys.readouterr().out
