"""A number that is none never reaches a checkpoint: the run stops and names what broke, or returns to its last checkpoint with other noise.

Real tiny runs (see `tiny`: 48 images at 4x4, then 64 at 8x8, in batches of 16) in which a latent is made infinite or a weight none.
"""

from collections.abc import Callable
import json
from pathlib import Path

import pytest
import torch

from hires import config as configuration
from hires.checkpoints import reading
from hires.errors import HiresError
from hires.ground import noise
from hires.training.game import Game
from hires.training.trainer import DONE, Trainer

SCRIPT = Path(__file__).parents[1] / "processes" / "rolling.py"
END = 112


@pytest.fixture
def train(world, tiny, tmp_path) -> Callable[..., int]:
    """train(*overrides) -> exit code of the run in tmp_path/run, in this process; checkpoints every 16 images."""

    def run(*overrides: str) -> int:
        every = ["train.checkpoint_every=16", f"run={tmp_path / 'run'}"]
        return Trainer(configuration.load("train", [*tiny, *every, *overrides]), world).train()

    return run


@pytest.fixture
def poison(monkeypatch) -> Callable[..., None]:
    """poison(images, times): the latents of that step are not finite for so many times."""
    clean = noise.normal

    def at(images: int, times: int) -> None:
        left = [times]

        def normal(seed, stream, at, *rest):
            z = clean(seed, stream, at, *rest)
            if stream == "latent" and at == images and left[0]:
                left[0] -= 1
                z[0] = torch.inf
            return z

        monkeypatch.setattr(noise, "normal", normal)

    return at


def weights(run: Path, images: int) -> dict[str, torch.Tensor]:
    """Everything a checkpoint holds of the three networks."""
    checkpoint = reading.Checkpoint(run / "checkpoints" / reading.folder_name(images))
    keys = [(p, n, f) for p in ("generator", "energy", "inference") for f in reading.FIELDS for n in sorted(checkpoint.names(p))]
    return {f"{p}/{n}/{f}": checkpoint.read(p, n, f, 0, checkpoint.numel(p, n, f)) for p, n, f in keys}


def attempt(run: Path, images: int) -> int:
    return reading.Checkpoint(run / "checkpoints" / reading.folder_name(images)).manifest["attempt"]


def rollbacks(run: Path) -> list[dict]:
    return [record for line in (run / "metrics.jsonl").read_text().splitlines() if "rollback" in (record := json.loads(line))]


def all_finite(run: Path) -> bool:
    saved = [int(path.name.removeprefix("images-")) for path in reading.complete(run / "checkpoints")]
    return bool(saved) and all(value.isfinite().all() for images in saved for value in weights(run, images).values())


def test_it_returns_to_the_last_checkpoint_with_the_same_images_and_other_noise(train, poison, monkeypatch, tmp_path, capsys):
    seen, plain, drawn = [], Game.round, []

    def look(game, phase, images, penalise=None):
        seen.append((phase.images, images.clone()))
        drawn.append((phase.images, game.noise_seed))
        return plain(game, phase, images, penalise)

    monkeypatch.setattr(Game, "round", look)
    poison(64, 1)
    assert train("train.on_nonfinite=rollback") == DONE
    twice = [images for at, images in seen if at == 64]
    assert len(twice) == 2 and torch.equal(*twice)
    assert [at for at, _ in seen] == [0, 16, 32, 48, 64, 64, 80, 96]  # back by no step, since each was saved
    seeds = dict(drawn[:4]), dict(drawn[5:])
    assert set(seeds[0].values()) == {0} and len(set(seeds[1].values())) == 1 and seeds[1][64] != 0
    (record,) = rollbacks(tmp_path / "run")
    assert record["images"] == 64 and record["rollback"] == 1 and "64 images" in record["why"] and "8" in record["why"]
    told = [line for line in capsys.readouterr().out.splitlines() if "rollback 1 of 3" in line]
    assert len(told) == 1 and reading.folder_name(64) in told[0]
    assert [attempt(tmp_path / "run", images) for images in (48, 64, 80, END)] == [0, 0, 1, 1]
    assert all_finite(tmp_path / "run")
    # the number of rollbacks is in the checkpoint: a run that is restarted after one ends bit for bit alike
    (tmp_path / "run").rename(tmp_path / "first")
    poison(64, 1)
    assert train("train.on_nonfinite=rollback", "train.max_images=80") == DONE
    assert train() == DONE
    whole, again = (weights(tmp_path / name, END) for name in ("first", "run"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_it_returns_only_so_often(train, poison, tmp_path):
    poison(32, 99)
    with pytest.raises(HiresError) as error:
        train("train.on_nonfinite=rollback", "train.rollbacks=2")
    text = str(error.value)
    assert "2 rollbacks did not help" in text and "at 32 images" in text and "level 4" in text and reading.folder_name(32) in text
    assert [record["rollback"] for record in rollbacks(tmp_path / "run")] == [1, 2]
    assert all_finite(tmp_path / "run")


def test_without_a_checkpoint_it_begins_again(train, poison, tmp_path):
    poison(0, 1)
    assert train("train.on_nonfinite=rollback", "train.max_images=16") == DONE
    assert rollbacks(tmp_path / "run")[0]["images"] == 0 and attempt(tmp_path / "run", 16) == 1


def test_told_to_stop_it_names_player_images_level_and_the_last_good_checkpoint(train, poison, tmp_path):
    poison(32, 1)
    with pytest.raises(HiresError) as error:
        train()
    text = str(error.value)
    assert (
        "at 32 images: the generator's gradient, the energy's gradient, the inference's gradient" in text
        and "from energy: energy_fake, energy_gap, energy_size, loss_energy; " in text
        and "level 4" in text
        and reading.folder_name(32) in text
        and "\n" not in text
    )
    assert all_finite(tmp_path / "run") and not rollbacks(tmp_path / "run")


def test_where_nothing_is_saved_between_it_is_found_after_one_more_step(train, poison, monkeypatch, tmp_path):
    seen, plain = [], Game.round

    def look(game, phase, images, penalise=None):
        measures = plain(game, phase, images, penalise)
        seen.append((phase.images, all(f.weight.isfinite().all() for one in game.players.values() for f in one.fragments)))
        return measures

    monkeypatch.setattr(Game, "round", look)
    poison(16, 1)
    with pytest.raises(HiresError, match=r"at 16 images: the generator's gradient, .*; last good checkpoint: none"):
        train("train.checkpoint_every=1k")
    assert seen == [(0, True), (16, True), (32, True)]  # no weight was touched


@pytest.mark.parametrize("stage", [0, 1])
def test_a_weight_that_is_none_is_not_saved_although_every_loss_was_finite(stage, train, monkeypatch, tmp_path):
    """What a step breaks shows in the losses of the next one alone, and a save may come between."""
    plain = Game.round

    def spoil(game, phase, images, penalise=None):
        measures = plain(game, phase, images, penalise)
        if phase.images == 16:
            game.players["inference"].fragments[0].ema[0] = torch.nan
        return measures

    monkeypatch.setattr(Game, "round", spoil)
    with pytest.raises(HiresError, match=r"at 32 images: the inference's ema, level 4; last good checkpoint: .*images-000000000016;"):
        train(f"zero.stage={stage}", "objective.r1=0")
    assert all_finite(tmp_path / "run")


def test_losses_that_are_none_with_gradients_that_are_found_one_step_later_and_named(train, monkeypatch, tmp_path):
    plain = Game.round

    def spoil(game, phase, images, penalise=None):
        measures = plain(game, phase, images, penalise)
        return measures | ({"K": measures["K"] / 0, "R": measures["R"] / 0} if phase.images == 16 else {})

    monkeypatch.setattr(Game, "round", spoil)
    with pytest.raises(HiresError, match=r"at 16 images: inference: K; generator: R, level 4; last good .*images-000000000016;"):
        train()


@pytest.mark.slow
def test_two_ranks_return_together_when_one_of_them_meets_it_and_again_later(ranks, tiny, tmp_path):
    every = ["train.checkpoint_every=16", f"run={tmp_path / 'run'}", "train.on_nonfinite=rollback"]
    (tmp_path / "overrides.json").write_text(json.dumps([*tiny, *every]))
    ranks(2, SCRIPT, tmp_path / "overrides.json")  # on rank 1 alone at 32 images, then at 80
    assert [(record["images"], record["rollback"]) for record in rollbacks(tmp_path / "run")] == [(32, 1), (80, 2)]
    assert attempt(tmp_path / "run", END) == 2 and all_finite(tmp_path / "run")


@pytest.mark.parametrize("key,value,wanted", [("on_nonfinite", "ignore", "stop or rollback"), ("rollbacks", "0", "at least 1")])
def test_settings_that_mean_nothing(key, value, wanted, train, tmp_path):
    with pytest.raises(HiresError, match=f"train.{key}={value}: wanted {wanted}"):
        train(f"train.{key}={value}")
    assert not (tmp_path / "run").exists()
