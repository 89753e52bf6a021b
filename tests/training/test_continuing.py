"""A run that goes on with other settings says so, or is refused where it would not be the run that it was."""

from dataclasses import asdict, replace
import json

import pytest
import torch

from hires import config as configuration
from hires.checkpoints import reading
from hires.errors import HiresError
from hires.ground import noise
from hires.networks import NetworkConfig
from hires.training.game import Game
from hires.training.schedule import Schedule
from hires.training.settings import run_config, to_dict
from hires.training.trainer import Trainer

CHANGED = "other settings than at images-000000000096: "


@pytest.fixture(scope="module")
def resume(world, tiny, tmp_path_factory):
    """resume(*overrides): a run at 96 images, stable at 8x8, goes on with them as far as it is already."""
    run = tmp_path_factory.mktemp("continuing") / "run"

    def go_on(*overrides: str) -> None:
        config = configuration.load("train", [*tiny, f"run={run}", "train.max_images=96", *overrides])
        assert Trainer(config, world).train() == 0

    go_on()
    go_on.run = run
    return go_on


def test_the_same_settings_say_nothing(resume, capsys):
    resume()
    assert "other settings" not in capsys.readouterr().out


def test_a_run_of_before_a_network_had_a_setting_goes_on(resume, capsys):
    """Each setting of the networks that has its default is taken out of the checkpoint's configuration, as if it were new."""
    path = resume.run / "checkpoints" / "images-000000000096" / reading.MANIFEST
    text = path.read_text()
    manifest = json.loads(text)
    del manifest["sha256"]
    defaults = asdict(NetworkConfig())
    kept = {key: value for key, value in manifest["config"]["network"].items() if value != defaults[key]}
    assert {"energy_norm", "downsampling", "width"}.isdisjoint(kept) and kept
    manifest["config"]["network"] = kept
    path.write_text(reading.manifest_text(manifest))
    try:
        resume()
    finally:
        path.write_text(text)
    assert "other settings" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["monitor.samples=2"], "monitor.samples=2 (was 4)"),
        (["zero.stage=0", "train.keep=9"], "train.keep=9 (was 99), zero.stage=0 (was 1)"),
        (["schedule.levels.8.micro_batch=8"], "schedule.levels.8.micro_batch=8 (was 0)"),
        (["schedule.resolution=16", "schedule.levels.16.batch=16"], "schedule.resolution=16 (was 8)"),  # what is still to come
    ],
)
def test_what_changes_no_step_is_told_with_both_values(resume, capsys, overrides, told):
    resume(*overrides)
    out = capsys.readouterr().out.replace("\n", " ")
    assert CHANGED in out and told in out


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.seed=1"], "train.seed=1 (was 0)"),
        (["train.precision=bf16"], "train.precision=bf16 (was fp32)"),
        (["objective.beta=0.5"], "objective.beta=0.5 (was"),
        (["optimizer.beta2=0.9"], "optimizer.beta2=0.9 (was 0.99)"),
        (["schedule.levels.4.batch=24"], "schedule.levels.4.batch=24 (was 16)"),
        (["schedule.levels.8.lr=1e-4"], "schedule.levels.8.lr=0.0001 (was"),
        (["schedule.decay=112"], "schedule.decay=112 (was 0)"),
        (["schedule.growth_moments=keep"], "schedule.growth_moments=keep (was reset)"),
    ],
)
def test_what_would_have_been_another_run_wants_a_word_of_consent(resume, capsys, overrides, told):
    with pytest.raises(HiresError) as refused:
        resume(*overrides)
    assert told in str(refused.value) and "train.allow_changes=true" in str(refused.value)


def test_with_consent_it_goes_on_and_says_what_differs(resume, capsys):
    resume("train.seed=1", "train.allow_changes=true")
    assert f"{CHANGED}train.seed=1 (was 0)" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("consent", ["false", "true"])
def test_a_schedule_that_would_shrink_the_run_is_refused(resume, consent):
    """With consent too: there is no way down."""
    with pytest.raises(HiresError, match=r"has grown to 8x8, but at its 96 images this schedule is at 4x4 .*stable=512 \(was 48\)"):
        resume("schedule.levels.4.stable=512", f"train.allow_changes={consent}")


def test_max_images_beyond_the_schedule_is_told(resume, capsys):
    resume("train.max_images=1M")
    assert "train.max_images=1M: the schedule ends before, at 112 images" in capsys.readouterr().out


def test_what_was_no_setting_yet_keeps_its_value():
    """A manifest that does not name the energy's weight is of a run whose weight was 1, whatever the default has become."""
    plain = to_dict(configuration.load("train", ["experiment=digits", "run=r"]))
    assert run_config(plain).objective.energy_weight == 10
    del plain["objective"]["energy_weight"], plain["objective"]["energy_sees"], plain["network"]["downsampling"]
    then = run_config(plain)
    assert (then.objective.energy_weight, then.objective.energy_sees, then.network.downsampling) == (1, "samples", "separate")
    assert run_config(to_dict(then)) == then


@pytest.mark.parametrize("drawn", ["sample", "batch"])
def test_chains_keep_the_noise_that_they_began_with(drawn, world, monkeypatch):
    """Runs from before objective.chains.drawn draw the global batch's; today's, each sample's by its number in the run."""
    plain = to_dict(configuration.load("train", ["experiment=digits", "objective=f_ebm", "run=r", "train.precision=fp32"]))
    if drawn == "batch":
        del plain["objective"]["chains"]["drawn"]
    config = run_config(plain)
    assert config.objective.chains.drawn == drawn and run_config(to_dict(config)) == config
    phase, rows = replace(Schedule(config.schedule).at(640), batch=6), slice(0, 6)
    played = Game(config, world, phase.shape)
    monkeypatch.setattr(played.objective, "batch", lambda x, alpha, draw, latent: draw("langevin1", 7))
    monkeypatch.setattr(played.objective, "round", lambda noise, *_: {"noise": noise})
    found = played.round(phase, torch.zeros(6, 1, phase.resolution, phase.resolution, dtype=torch.uint8))["noise"]
    old = noise.normal(config.train.seed, "langevin1", 640, 6, 7, rows)
    new = noise.by_sample(config.train.seed, "langevin1", 640, 7, rows, torch.device("cpu"))
    assert torch.equal(found.cpu(), old if drawn == "batch" else new)
    played.destroy()


def test_a_setting_that_was_renamed_is_read_from_older_runs(tiny, tmp_path):
    config = configuration.load("train", [*tiny, f"run={tmp_path}", "train.trial=false"])
    older = to_dict(config)
    older["train"]["preflight"] = older["train"].pop("trial")
    assert run_config(older) == config
