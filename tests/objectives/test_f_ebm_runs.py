"""f-EBM trained by real processes through a growth and a fade: worlds agree, and killed and started again it ends with the same bits.

See `tiny`: growth at 48 images, stable from 80, the end at 112. The buffer is part of what has to agree.
"""

import json
import math
from pathlib import Path
import signal
import subprocess
import sys

import pytest
import torch

from hires.checkpoints import reading
from hires.planning.memory import level_plans
from hires.training.schedule import Schedule
from hires.training.settings import run_config

pytestmark = pytest.mark.slow
FADING, END = 64, 112
CALM = "optimizer.eps=1e-3"  # Adam that does not turn an element whose gradient is rounding alone into a step of the learning rate
CHAINS = ["objective.chains.steps=2", "objective.chains.replay=40", CALM]
SYSTEMS = {
    "f_ebm": ["objective=f_ebm", "objective.divergence=squared_hellinger"],
    "contrastive_divergence": ["objective=contrastive_divergence"],
}


def tensors(run: Path, images: int = END) -> dict[str, torch.Tensor]:
    """Everything in a checkpoint of a run, the chains' pictures as numbers of their 255 levels."""
    checkpoint = reading.Checkpoint(run / "checkpoints" / reading.folder_name(images))
    fields = [(p, f) for p in ("variational", "energy") for f in reading.FIELDS] + [("carried", "state")]
    names = [(p, n, f) for p, f in fields for n in sorted(checkpoint.names(p, f))]
    return {f"{p}/{n}/{f}": checkpoint.read(p, n, f, 0, checkpoint.numel(p, n, f)) for p, n, f in names}


def compare(a: Path, b: Path, images: int = END) -> tuple[float, float]:
    """The largest difference of a weight or average, and the share of the pictures' values that differ, by one level at most."""
    left, right = tensors(a, images), tensors(b, images)
    assert left.keys() == right.keys()
    apart = left["carried/replay/state"].int() - right["carried/replay/state"].int()
    assert apart.abs().max() <= 1
    weights = [key for key in left if key.endswith(("/weight", "/ema"))]
    return max((left[key] - right[key]).abs().max().item() for key in weights), (apart != 0).float().mean().item()


@pytest.fixture(scope="module")
def finished(request, worlds, tiny, tmp_path_factory) -> Path:
    """For each system whole-1, whole-2 and, where that is tested, whole-4; half-1 and half-2, in another world from the middle of the fade
    on; and `order`: one process, its sums in another order."""
    out = tmp_path_factory.mktemp("runs")
    common = {name: [*tiny, *overrides, *CHAINS] for name, overrides in SYSTEMS.items()}
    (out / "common").write_text(json.dumps(common))

    def runs(name: str, *more: str) -> list[list[str]]:
        return [[*start, f"run={out}/{system}/{name}", *more] for system, start in common.items()]

    half, micro = f"train.max_images={FADING}", [f"schedule.levels.{level}.micro_batch=4" for level in (4, 8)]
    one, two = runs("whole-1") + runs("order", *micro) + runs("half-1", half), runs("whole-2") + runs("half-2", half) + runs("half-1")
    cases = [item.callspec.params for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    four = {case["runs"] for case in cases if case.get("world") == 4}
    whole_4 = [run for system, run in zip(common, runs("whole-4"), strict=True) if system in four]
    worlds([(1, one), (2, two), *([(4, whole_4)] if four else []), (1, runs("half-2"))])
    return out


@pytest.fixture(params=SYSTEMS)
def runs(request, finished) -> Path:
    return finished / request.param


def close(runs: Path, name: str) -> None:
    """A run is no further from whole-1 than 32 times what another order of sums does on this machine (one of 255 levels is coarse)."""
    (weights, pictures), (rounding, levels) = (compare(runs / "whole-1", runs / other) for other in (name, "order"))
    assert weights < 32 * rounding < 1e-4 and pictures <= max(4 * levels, 0.01)


@pytest.mark.campaign(2)
@pytest.mark.parametrize("world", [2, 4])
def test_worlds_agree_through_a_growth(runs, world):
    close(runs, f"whole-{world}")
    start, end = tensors(runs / "whole-1", 32), tensors(runs / "whole-1")
    assert max((start[key] - end[key]).abs().max().item() for key in start if key.endswith("weight") and key in end) > 1e-3
    assert end["carried/replay/state"].numel() == 40 * 8 * 8 and start["carried/replay/state"].numel() == 40 * 4 * 4


@pytest.mark.parametrize("before", [1, 2])
def test_resumed_in_another_world_it_goes_on_with_the_same_chains(runs, before):
    close(runs, f"half-{before}")


def test_the_plan_tells_the_bytes_of_the_buffer(runs):
    checkpoint = reading.Checkpoint(runs / "whole-2" / "checkpoints" / reading.folder_name(END))
    config = run_config(checkpoint.manifest["config"])
    for world in (1, 3):
        plan = level_plans(config, Schedule(config.schedule), world)[-1]
        assert plan.carried == math.ceil(checkpoint.numel("carried", "replay", "state") / world)


def test_killed_and_started_again_it_ends_with_the_same_bits(runs, forks, clean_env, tmp_path):
    overrides = [*json.loads((runs.parent / "common").read_text())[runs.name], f"run={tmp_path / 'run'}", "train.checkpoint_every=16"]
    command = [sys.executable, "-u", "-m", "hires", "train", *overrides]
    killed = forks.start(command, env=clean_env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in killed.stdout:
        if f"{FADING:012d}" in line:  # saved in the middle of the fade
            break
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    again = forks.run(command, env=clean_env, timeout=300)
    assert again.returncode == 0 and "resuming from" in again.stdout, again.stderr
    left, right = tensors(runs / "whole-1"), tensors(tmp_path / "run")
    assert left.keys() == right.keys() and "carried/replay/state" in left
    assert all(torch.equal(left[key], right[key]) for key in left)
