"""`hires train objective=latent_ebm` as users start it: through a growth and a fade, on several processes, killed and taken up again."""

from pathlib import Path
import signal
import subprocess
import sys

import pytest
import torch

from hires.checkpoints import reading

pytestmark = pytest.mark.slow
FADING, END = 64, 112  # see `tiny`: growth at 48 images, fading until 80
# Adam that does not turn an element whose gradient is rounding alone into a step of the learning rate
CALM = "optimizer.eps=1e-3"


@pytest.fixture(scope="module")
def pairs(tiny) -> list[str]:
    return [*tiny, "objective=latent_ebm"]


def tensors(run: Path, images: int = END, fields: tuple[str, ...] = reading.FIELDS) -> dict[str, torch.Tensor]:
    checkpoint = reading.Checkpoint(run / "checkpoints" / reading.folder_name(images))
    keys = [(p, n, f) for p in ("generator", "energy", "inference") for f in fields for n in sorted(checkpoint.names(p))]
    return {f"{p}/{n}/{f}": checkpoint.read(p, n, f, 0, checkpoint.numel(p, n, f)) for p, n, f in keys}


@pytest.fixture(scope="module")
def finished(worlds, pairs, tmp_path_factory) -> Path:
    """A folder with a finished run for each number of processes, and `order`: one process, its sums in another order."""
    out = tmp_path_factory.mktemp("runs")
    runs = {name: [*pairs, CALM, f"run={out}/{name}"] for name in ("1", "order", "2", "4")}
    micro = [f"schedule.levels.{level}.micro_batch=4" for level in (4, 8)]
    worlds([(1, [runs["1"], [*runs["order"], *micro]]), (2, [runs["2"]]), (4, [runs["4"]])])
    return out


@pytest.mark.parametrize("world", [2, 4])
def test_worlds_agree_through_a_growth(finished, world):
    """No further apart than 32 times what another order of sums does on this machine."""
    one, other, many = (tensors(finished / name, END, ("weight", "ema")) for name in ("1", "order", str(world)))
    assert one.keys() == many.keys() and any("head.from_latent" in key for key in one)
    rounding = max((one[key] - other[key]).abs().max().item() for key in one)
    assert max((one[key] - many[key]).abs().max().item() for key in one) < 32 * rounding < 1e-4
    before = tensors(finished / "1", FADING - 16, ("weight",))
    assert max((one[key] - before[key]).abs().max().item() for key in before if key in one) > 1e-3


def test_killed_in_a_fade_it_ends_where_the_uninterrupted_run_ends(finished, pairs, forks, clean_env, hires, tmp_path):
    run = tmp_path / "run"
    command = [*pairs, CALM, f"run={run}", "train.checkpoint_every=16"]
    killed = forks.start([sys.executable, "-u", "-m", "hires", "train", *command], env=clean_env, stdout=subprocess.PIPE)
    next(line for line in killed.stdout if "saved" in line and reading.folder_name(FADING) in line)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=100)
    assert not (run / "checkpoints" / reading.folder_name(END)).exists()
    done = hires("train", *command)
    assert done.returncode == 0, done.stderr
    left, right = tensors(finished / "1"), tensors(run)
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    shown = {path.name.partition("-")[0] for path in (run / "samples").iterdir()}
    assert shown == {"fakes", "reconstructions", "reals"}


def test_plan_prints_players_and_losses(pairs, hires, tmp_path):
    done = hires("plan", *pairs, f"run={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    for text in ("generator+energy+inference", "U(x, z̃)", "U(x̃, z)", "eq17"):
        assert text in done.stdout, text
    assert not (tmp_path / "run").exists()
