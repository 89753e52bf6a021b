"""Bad input ends in one clear line on stderr and a non-zero status, and nothing that existed is lost or overwritten.

Most cases call `hires.cli.main` here, where an exception that is no line would fail the test; the last ones start real processes.
"""

from collections.abc import Callable
import hashlib
from pathlib import Path
import subprocess
import sys

import pytest

from hires import cli
from hires.checkpoints import reading
from hires.ground import distributed


@pytest.fixture
def fails(world, monkeypatch, capsys) -> Callable[..., str]:
    """fails(verb, *overrides) -> the one line that it ended with."""
    monkeypatch.setattr(distributed, "start", lambda *_, **__: world)
    monkeypatch.setattr(distributed, "stop", lambda: None)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        status = cli.main([str(a) for a in arguments])
        lines = capsys.readouterr().err.splitlines()
        assert status not in (0, 85)
        assert len(lines) == 1 and lines[0].startswith(f"hires {arguments[0]}: error: "), lines
        text = lines[0].removeprefix(f"hires {arguments[0]}: error: ")
        assert 10 < len(text) < 400 and "hires train" not in text and "Traceback" not in text
        return text

    return run


def contents(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# what is added to a right command, and words that the line must hold: the culprit, and what was wanted or found
CONFIGURATION = {
    "a wrong key": (["train.sead=1"], ["sead"]),
    "a key of another time": (["train.preflight=false"], ["train.preflight", "train.trial"]),
    "a wrong key in a level": (["schedule.levels.8.batches=4"], ["batches"]),
    "a wrong group": (["networks=slim"], ["networks"]),
    "a preset that is not": (["network=tiny"], ["network=tiny: wanted base", "slim"]),
    "a wrong type": (["schedule.levels.4.batch=many"], ["schedule.levels.4.batch=many: wanted a whole number"]),
    "a word for a number": (["objective.beta=strong"], ["objective.beta=strong: wanted a number"]),
    "a word for a switch": (["train.trial=perhaps"], ["train.trial=perhaps: wanted true or false"]),
    "an added key": (["+extra=1"], ["extra"]),
    "an added key inside": (["+train.extra=1"], ["extra"]),
    "no value": (["train.seed"], ["train.seed: wanted train.seed=…"]),
    "an open bracket": (["schedule.levels={4:"], ["schedule.levels"]),
    "a level written as a number": (["schedule.levels={4:{stable:64}}"], ["schedule.levels.4"]),
    "an experiment that is not": (["experiment=nonesuch"], ["experiment=nonesuch: wanted celeba_64,", "digits"]),
    "a hole in the schedule": (["~schedule.levels.8", "schedule.resolution=16"], ["schedule.levels", "hole", "8"]),
    "images that are none": (["schedule.levels.4.stable=12q"], ["schedule.levels.4.stable=12q"]),
    "a length that is none": (["train.checkpoint_every=often"], ["train.checkpoint_every=often"]),
    "max_images that is none": (["train.max_images=-5"], ["train.max_images=-5"]),
    "a resolution not in the table": (["schedule.resolution=2048"], ["schedule.resolution=2048"]),
    "another precision": (["train.precision=fp8"], ["train.precision=fp8", "fp32"]),
    "another stage": (["zero.stage=5"], ["zero.stage=5"]),
    "stage 3 with a penalty": (["zero.stage=3", "objective.r1=1"], ["zero.stage=3", "objective.r1"]),
    "stage 3 with spectral norms": (["zero.stage=3", "objective.r1=0", "objective.energy=softplus"], ["zero.stage=3", "softplus"]),
    "an unknown order": (["objective.updates=backwards"], ["objective.updates=backwards", "energy_first"]),
    "an unknown network": (["network.kind=resnet"], ["network.kind=resnet"]),
    "two channels": (["network.image_channels=2"], ["network.image_channels=2"]),
    "no channels": (["network.channels_max=0"], ["network.channels_max=0"]),
    "no latent": (["network.latent=0"], ["network.latent=0"]),
    "no convolutions": (["network.convs=0"], ["network.convs=0"]),
    "dcgan32 that grows": (["network=dcgan32"], ["dcgan32", "32"]),
    "a width of networks that grow": (["network.width=0.5"], ["network.width=0.5", "channels_base"]),
    "weight decay of no player": (["optimizer.weight_decay.variational=1e-4"], ["weight_decay.variational=0.0001", "energy"]),
    "weight decay < 0": (["optimizer.weight_decay.energy=-1"], ["optimizer.weight_decay.energy=-1"]),
    "a rate that falls at no time": (["schedule.decay_factor=0.9"], ["schedule.decay_factor=0.9", "schedule.decay_every"]),
    "Adam's beta": (["optimizer.beta2=1.5"], ["optimizer.beta2=1.5"]),
    "Adam's eps": (["optimizer.eps=-1"], ["optimizer.eps=-1"]),
    "no clipping": (["optimizer.clip=0"], ["optimizer.clip=0"]),
    "a micro-batch that does not divide": (["schedule.levels.4.micro_batch=5"], ["schedule.levels.4.micro_batch=5"]),
    "nothing kept": (["train.keep=0"], ["train.keep=0"]),
    "wandb somewhere": (["monitor.wandb=sometimes"], ["monitor.wandb=sometimes", "offline"]),
}


@pytest.mark.parametrize("overrides,words", CONFIGURATION.values(), ids=CONFIGURATION)
def test_bad_configurations(overrides, words, fails, tiny, tmp_path):
    text = fails("train", *tiny, f"run={tmp_path / 'run'}", *overrides)
    assert all(word in text for word in words), text
    assert not (tmp_path / "run").exists()


def test_what_was_not_given_is_named(fails, tmp_path):
    assert "run" in fails("train", "data.root=nowhere")
    assert "data.root" in fails("train", f"run={tmp_path / 'run'}")
    assert "run=" in fails("export")
    assert "sampler=" in fails("sample", "out=x.png")


@pytest.mark.parametrize("arguments", [["trian"], ["--hepl"], ["run=x", "train"]])
def test_an_unknown_verb_is_told_with_the_known_ones(arguments, capsys):
    assert cli.main(arguments) == 2
    text = capsys.readouterr().err
    assert arguments[0] in text.splitlines()[0] and "train" in text and "Traceback" not in text


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "--help"]])
def test_help_is_no_failure(arguments, capsys):
    assert cli.main(arguments) == 0
    out = capsys.readouterr()
    assert "hires" in out.out and not out.err


# ---------------------------------------------------------------------------------------------- data


def test_a_missing_data_folder(fails, tiny, tmp_path):
    text = fails("train", *tiny, f"run={tmp_path / 'run'}", f"data.root={tmp_path / 'none'}")
    assert str(tmp_path / "none") in text and not (tmp_path / "run").exists()


def test_a_level_that_the_shards_lack(fails, tiny, tmp_path):
    overrides = ["schedule.resolution=32", "schedule.levels.32.stable=64", "schedule.levels.32.fade=64"]
    text = fails("train", *tiny, f"run={tmp_path / 'run'}", *overrides)
    assert "32" in text and "16" in text and not (tmp_path / "run").exists()  # the level, and those that there are


def test_colours_that_the_shards_do_not_have(fails, tiny, tmp_path):
    text = fails("train", *tiny, f"run={tmp_path / 'run'}", "network.image_channels=3")
    assert "network.image_channels=3" in text


def test_a_batch_that_the_world_does_not_divide(fails, tiny):
    text = fails("plan", *tiny, "world_size=3")
    assert "schedule.levels.4.batch=16" in text and "3" in text
    assert "world_size=0" in fails("plan", *tiny, "world_size=0")


# ---------------------------------------------------------------------------------------------- runs that exist


@pytest.fixture
def begun(world, monkeypatch, tiny, tmp_path) -> Path:
    """A run stopped by max_images after two steps."""
    monkeypatch.setattr(distributed, "start", lambda *_, **__: world)
    monkeypatch.setattr(distributed, "stop", lambda: None)
    assert cli.main(["train", *tiny, f"run={tmp_path / 'run'}", "train.max_images=32"]) == 0
    return tmp_path / "run"


OTHERS = {"network.latent": "9", "network.channels_max": "12", "network.convs": "2", "objective.energy": "softplus"}


@pytest.mark.parametrize("key,value", OTHERS.items(), ids=OTHERS)
def test_a_checkpoint_of_another_network(key, value, begun, fails, tiny):
    before = contents(begun)
    text = fails("train", *tiny, f"run={begun}", f"{key}={value}")
    assert key in text and value in text and "checkpoints/images-" in text
    assert contents(begun) == before


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_last_good_checkpoint(begun, fails, tiny):
    good = {name: digest for name, digest in contents(begun).items() if "checkpoints" in name}
    text = fails("train", *tiny, f"run={begun}", "schedule.levels.4.lr=1e30", "train.allow_changes=true", "train.checkpoint_every=16")
    assert "4" in text and reading.folder_name(32) in text  # the level, and where to go on from
    after = contents(begun)
    assert {name: after.get(name) for name in good} == good
    newest = reading.newest_valid(begun / "checkpoints", pytest.fail)
    import torch

    checkpoint = reading.Checkpoint(newest)
    assert all(torch.isfinite(checkpoint.read("generator", n, "weight", 0, 1)).all() for n in checkpoint.names("generator"))


def test_gradients_that_are_no_numbers_are_not_skipped_in_silence(fails, tiny, tmp_path):
    """DeepSpeed skips such a step and goes on; with finite losses the run would end well having learned nothing."""
    text = fails("train", *tiny, f"run={tmp_path / 'run'}", "train.trial=true", "optimizer.clip=1e38", "objective.beta=1e39")
    assert "inference's gradient" in text and "4x4" in text and not (tmp_path / "run").exists()


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_again_over_them(begun, fails, tiny):
    """Starting from nothing would delete the damaged ones sooner or later, and with them what might be rescued."""
    for manifest in (begun / "checkpoints").glob("*/manifest.json"):
        manifest.write_text("{")
    before = contents(begun / "checkpoints")
    text = fails("train", *tiny, f"run={begun}")
    assert str(begun) in text and contents(begun / "checkpoints") == before


# ---------------------------------------------------------------------------------------------- as a person sees it

REAL = {"a wrong key": ["train.sead=1"], "no data": ["data.root=/nonexistent"], "not a number": ["schedule.levels.4.lr=1e30"]}


@pytest.mark.slow
@pytest.mark.parametrize("overrides", REAL.values(), ids=REAL)
def test_a_real_process_ends_in_one_line(overrides, hires, tiny, clean_env, tmp_path):
    arguments = ["train", *tiny, f"run={tmp_path / 'run'}", *overrides]
    if overrides == REAL["no data"]:  # once an interpreter of its own, with what its imports may say
        command = [sys.executable, "-m", "hires", *arguments]
        done = subprocess.run(command, env=clean_env, capture_output=True, text=True, timeout=300, check=False)
    else:
        done = hires(*arguments)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("hires")]
    assert len(errors) == 1 and done.stderr.rstrip().endswith(errors[0])
    assert "Traceback" not in done.stderr + done.stdout
