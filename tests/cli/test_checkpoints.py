"""What a person is told of a run's checkpoints, two runs in one folder, and a run that starts from another's."""

from collections.abc import Callable
import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest
import torch

from hires import cli
from hires.checkpoints import reading
from hires.ground import distributed

GROWN, STABLE, END = 48, 80, 112  # of `tiny`
KEEP = ["train.keep=2", "train.keep_every=60"]


@pytest.fixture(scope="module")
def trained(world, tiny, tmp_path_factory) -> Path:
    """A finished run that saved every 16 images, kept the newest two, those from each 60th image on and each level's last."""
    run = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distributed, "start", lambda *_, **__: world)
        patched.setattr(distributed, "stop", lambda: None)
        assert cli.main(["train", *tiny, f"run={run}", *KEEP, "train.checkpoint_every=16"]) == 0
    return run


@pytest.fixture
def call(world, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """call(*arguments) -> (exit status, stdout, stderr) of a verb in this process."""
    monkeypatch.setattr(distributed, "start", lambda *_, **__: world)
    monkeypatch.setattr(distributed, "stop", lambda: None)

    def run(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


def rows(out: str) -> dict[str, list[str]]:
    """The cells of each row, by its images."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    return {cells[1]: cells for cells in lines}


def copied(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


def test_what_was_kept_is_listed_with_the_reason(trained, call):
    status, out, _ = call("checkpoints", f"run={trained}")
    assert status == 0
    found = rows(out)
    assert list(found) == ["48", "64", "96", "112"]
    assert [cells[0] for cells in found.values()] == ["", "", "", "→"]
    assert [cells[2] for cells in found.values()] == ["4x4", "8x8", "8x8", "8x8"]
    assert [cells[3] for cells in found.values()] == ["stable", "fading in, α 0.25", "stable", "stable"]
    assert [cells[9] for cells in found.values()] == ["last of 4x4", "first from 60 on", "newest", "newest, last of 8x8"]
    assert all(cells[5] == cells[6] == "1" and cells[8] == "whole" and cells[4].endswith(" MB") for cells in found.values())
    assert f"→ a restart takes {trained}/checkpoints/{reading.folder_name(END)}" in out


def test_damaged_and_unfinished_ones_are_listed_and_verify_fails(trained, call, tmp_path):
    folder = copied(trained, tmp_path / "run") / "checkpoints"
    assert call("checkpoints", "verify", f"run={tmp_path / 'run'}")[0] == 0
    shard = next((folder / reading.folder_name(END)).glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    shutil.copytree(folder / reading.folder_name(96), folder / f".{reading.folder_name(128)}.writing")
    (folder / reading.folder_name(96)).rename(folder / f"damaged-{reading.folder_name(96)}")
    (folder / reading.folder_name(64) / reading.MANIFEST).unlink()
    before = sorted(folder.rglob("*"))
    status, out, _ = call("checkpoints", f"run={tmp_path / 'run'}")
    found = rows(out)
    assert status == 0 and found["112"][8] == "whole"  # the flipped bit is not seen without reading
    assert "unfinished" in found[reading.folder_name(64)][8] and "cut short" in found[f".{reading.folder_name(128)}.writing"][8]
    status, out, _ = call("checkpoints", "verify", f"run={tmp_path / 'run'}")
    found = rows(out)
    assert status == 1 and "hash" in found["112"][8] and found["48"][0] == "→" and found["48"][8] == "whole"
    assert sorted(folder.rglob("*")) == before


def test_nothing_to_list_is_told(call, tmp_path):
    for arguments in ([f"run={tmp_path / 'none'}"], ["verify", f"run={tmp_path}"]):
        status, _, err = call("checkpoints", *arguments)
        assert status == 1 and "no checkpoint" in err and str(tmp_path) in err
    assert call("checkpoints", "action=mend", f"run={tmp_path}")[0] == 1
    assert call("checkpoints", "mend", f"run={tmp_path}")[0] == 1


# ---------------------------------------------------------------------------------------------- two runs in one folder


@pytest.mark.slow
def test_a_second_run_in_one_folder_refuses_naming_the_first(tiny, forks, clean_env, call, tmp_path):
    again = [*tiny, f"run={tmp_path / 'run'}", "schedule.levels.4.stable=100k"]
    first = forks.start([sys.executable, "-u", "-m", "hires", "train", *again], env=clean_env, stdout=subprocess.PIPE)
    try:
        assert any("kimg" in line for line in first.stdout)
        status, _, err = call("train", *again)
        assert status == 1 and len(err.splitlines()) == 1
        assert f"run={tmp_path / 'run'}: already being trained by process {first.pid} on {os.uname().nodename} since" in err
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    status, out, err = call("train", *again, "train.max_images=16")
    assert status == 0 and f"taking over from process {first.pid}" in out, err


# ---------------------------------------------------------------------------------------------- from another run


def tensors(path: Path, field: str) -> dict[str, torch.Tensor]:
    checkpoint = reading.Checkpoint(path)
    keys = [(player, name) for player in ("generator", "energy", "inference") for name in checkpoint.names(player)]
    return {f"{p}/{n}": checkpoint.read(p, n, field, 0, checkpoint.numel(p, n, field)) for p, n in keys}


EIGHT = ["~schedule.levels.4", "schedule.levels.8.fade=0", "train.checkpoint_every=16", "train.max_images=16"]
STILL = ["schedule.levels.8.lr=1e-30"]  # a step that changes no weight


@pytest.mark.parametrize("moments", ["reset", "keep"])
def test_a_run_starts_from_another_of_its_own_level(moments, trained, call, tiny, tmp_path):
    start = [*tiny, *EIGHT, *STILL, f"train.start_from={trained}", f"schedule.growth_moments={moments}"]
    status, out, err = call("train", f"run={tmp_path / 'run'}", *start)
    assert status == 0, err
    assert f"starting from {trained}/checkpoints/{reading.folder_name(END)}" in out
    there, here = trained / "checkpoints" / reading.folder_name(END), tmp_path / "run" / "checkpoints" / reading.folder_name(16)
    for field in ("weight", "ema"):
        old, new = tensors(there, field), tensors(here, field)
        assert new.keys() == old.keys()
        assert all(torch.allclose(new[key], old[key], atol=1e-3 if field == "ema" else 0) for key in new)
    steps = reading.Checkpoint(there).manifest["steps"]["generator"]
    wanted = {group: 1 + (count if moments == "keep" else 0) for group, count in steps.items()}
    assert reading.Checkpoint(here).manifest["steps"]["generator"] == wanted
    status, out, _ = call("train", f"run={tmp_path / 'run'}", *start, "train.max_images=32")
    assert status == 0 and "resuming from" in out and "train.start_from" in out  # its own checkpoint wins, and that is said


def test_a_lower_level_is_a_start_and_a_higher_one_is_refused(trained, call, tiny, tmp_path):
    low = trained / "checkpoints" / reading.folder_name(GROWN)
    status, out, err = call("train", f"run={tmp_path / 'low'}", *tiny, *EIGHT, *STILL, f"train.start_from={low}")
    assert status == 0 and f"starting from {low}" in out, err
    old, new = tensors(low, "weight"), tensors(tmp_path / "low" / "checkpoints" / reading.folder_name(16), "weight")
    same = [key for key in old if key in new]
    assert same and len(new) > len(same) and all(torch.equal(old[key], new[key]) for key in same)
    status, _, err = call("train", f"run={tmp_path / 'high'}", *tiny, f"train.start_from={trained}")
    assert status == 1 and "8x8" in err and "4x4" in err and not (tmp_path / "high").exists()


REFUSED = {
    "another network": ("network.latent=9", ["network.latent", "9", "8"]),
    "no such run": ("train.start_from={tmp}/none", ["train.start_from={tmp}/none", "no such folder"]),
    "a folder without checkpoints": ("train.start_from={tmp}", ["train.start_from={tmp}", "no complete checkpoint"]),
}


@pytest.mark.parametrize("override,words", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_started_from_is_refused_in_one_line(override, words, trained, call, tiny, tmp_path):
    start = [*tiny, *EIGHT, f"train.start_from={trained}", override.format(tmp=tmp_path)]
    status, _, err = call("train", f"run={tmp_path / 'run'}", *start)
    assert status == 1 and len(err.splitlines()) == 1 and all(word.format(tmp=tmp_path) in err for word in words), err
    assert not (tmp_path / "run").exists()
