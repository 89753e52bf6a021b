"""Runs of vgan, gan, wgan and vcd on digits through a growth and a fade: killed and resumed bit for bit, their grids, `hires plan`."""

from contextlib import redirect_stdout
import io
import json
import re
import signal
import subprocess
import sys

from PIL import Image
import pytest
import torch

from hires.checkpoints import reading
from hires.cli import main
from hires.objectives import SYSTEMS

NAMES = ("vgan", "gan", "wgan", "vcd")
END = 112  # growth at 48 images, stable from 80


def command(tiny, name: str, run, *extra: str) -> list[str]:
    return [*tiny, f"objective={name}", f"run={run}", *extra]


def state_of(run) -> dict[str, torch.Tensor]:
    """Every weight, moment and moving average of a run's last checkpoint."""
    checkpoint = reading.Checkpoint(run / "checkpoints" / reading.folder_name(END))
    keys = [(p, n, f) for p in checkpoint.manifest["steps"] for f in reading.FIELDS for n in sorted(checkpoint.names(p))]
    return {f"{p}/{n}/{f}": checkpoint.read(p, n, f, 0, checkpoint.numel(p, n, f)) for p, n, f in keys}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wgan", "vcd"])  # wgan's generator does not step in every round
def test_killed_while_fading_in_it_ends_where_the_uninterrupted_run_ends(name, tiny, hires, forks, clean_env, tmp_path):
    whole = hires("train", *command(tiny, name, tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    killed = command(tiny, name, tmp_path / "killed", "train.checkpoint_every=16")
    run = forks.start([sys.executable, "-u", "-m", "hires", "train", *killed], env=clean_env, stdout=subprocess.PIPE)
    assert any("saved" in line and "images-000000000064" in line for line in run.stdout)  # in the middle of the fade
    run.send_signal(signal.SIGKILL)
    run.communicate()
    again = hires("train", *killed)
    assert again.returncode == 0 and "resuming from" in again.stdout
    left, right = state_of(tmp_path / "whole"), state_of(tmp_path / "killed")
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_leaves_measures_and_grids(name, tiny, hires, tmp_path):
    penalised = ["objective.r1=1", "objective.r1_every=1"] if name == "gan" else []  # off by default
    done = hires("train", *command(tiny, name, tmp_path, "monitor.samples=16", *penalised))
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    system = SYSTEMS[name]
    assert {term for terms in system.TERMS.values() for term in terms} <= records[-1].keys()
    assert all(measure in records[-1] for measure in system.LINE.values())
    grids = {path.name.split("-")[0]: path for path in sorted((tmp_path / "samples").glob("*.png"))}
    assert grids.keys() == {"fakes", "reals"} | ({"reconstructions", "chains"} if name == "vcd" else set())
    if name == "vcd":  # 8 chains, the first picture and every fourth of 40 transitions
        width, height = Image.open(grids["chains"]).size
        assert (width - 2) * 8 == (height - 2) * 11  # two pixels of frame


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_prints_players_and_losses(name, tiny):
    with redirect_stdout(io.StringIO()) as out:
        assert main(["plan", *command(tiny, name, "none")]) == 0
    text = re.sub(r"\s+", " ", out.getvalue())
    for player in SYSTEMS[name].Settings().players():
        assert f"{player} {SYSTEMS[name].LOSSES[player]}" in text, text


def test_an_odd_share_is_refused_in_one_line(tiny, capsys):
    assert main(["plan", *command(tiny, "vcd", "none", "schedule.levels.8.batch=15")]) == 1
    assert re.search(r"levels\.8\.batch=15.*vcd", capsys.readouterr().err)
