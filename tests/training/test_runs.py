"""A run is a function of (configuration, images seen): worlds, ZeRO stages, kills and stops change nothing but the order of sums.

Runs are tiny, cross a growth and are trained by real processes; see `tiny`: growth at 48 images, stable from 80, the end at 112.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice
import json
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from hires import config as configuration
from hires.checkpoints import reading
from hires.ground.distributed import World
from hires.training.trainer import Trainer

pytestmark = pytest.mark.slow
GROWN, STABLE, END = 48, 80, 112
CALM = "optimizer.eps=1e-3"  # Adam that does not turn an element whose gradient is rounding alone into a step of the learning rate
ORDER = ["schedule.levels.4.micro_batch=4", "schedule.levels.8.micro_batch=4"]  # the sums of a batch in another order
STAGE = [CALM, "objective.r1=0"]  # stage 3 refuses the penalty
RUNS = {
    1: {"calm": [CALM], "calm-order": [CALM, *ORDER], "usual": [], "order": ORDER, "keep": ["schedule.growth_moments=keep"]},
    2: {"calm": [CALM], "stage0": [*STAGE, "zero.stage=0"], "stage-order": [*STAGE, *ORDER, "zero.stage=0"]},
    4: {"calm": [CALM], "usual": []},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(request, worlds, tiny, tmp_path_factory) -> Path:
    """A folder with a finished run `NAME-W` for each of RUNS, and for the stages that are tested."""
    out = tmp_path_factory.mktemp("runs")
    cases = [item.callspec.params["stage"] for item in request.session.items if item.path == request.path and "stage" in item.fixturenames]
    of = RUNS | {2: RUNS[2] | {f"stage{stage}": [*STAGE, f"zero.stage={stage}"] for stage in cases}}
    worlds([(size, [[*tiny, f"run={out}/{name}-{size}", *extra] for name, extra in runs.items()]) for size, runs in of.items()])
    return out


def tensors(run: Path, images: int = END, fields: tuple[str, ...] = ("weight", "ema")) -> dict[str, torch.Tensor]:
    """Every parameter of the three networks in a checkpoint of a run."""
    checkpoint = reading.Checkpoint(run / "checkpoints" / reading.folder_name(images))
    keys = [(p, n, f) for p in ("generator", "energy", "inference") for f in fields for n in sorted(checkpoint.names(p))]
    return {f"{p}/{n}/{f}": checkpoint.read(p, n, f, 0, checkpoint.numel(p, n, f)) for p, n, f in keys}


def distance(a: Path, b: Path, images: int = END) -> float:
    left, right = tensors(a, images), tensors(b, images)
    assert left.keys() == right.keys()
    return max((left[key] - right[key]).abs().max().item() for key in left)


def rounding(a: Path, b: Path, images: int = END) -> float:
    """How far another run may be from `a`: 32 times as far as `b` is, where only the order of sums is another, on this machine.

    The largest of thousands of elements is a few times larger in one order than in another; another order of images is far beyond.
    """
    bound = 32 * distance(a, b, images)
    assert 0 < bound < 1e-4, "this is no measure of rounding"
    return bound


@pytest.mark.parametrize("world", [2, 4])
def test_worlds_agree_through_a_growth(finished, world):
    for images in (GROWN, END):
        bound = rounding(finished / "calm-1", finished / "calm-order-1", images)
        assert distance(finished / "calm-1", finished / f"calm-{world}", images) < bound
    moved = tensors(finished / "calm-1", END), tensors(finished / "calm-1", GROWN)
    assert max((moved[0][key] - moved[1][key]).abs().max().item() for key in moved[1] if key in moved[0]) > 1e-3


def test_worlds_differ_by_no_more_than_the_order_of_sums_does(finished):
    """With Adam's usual eps, after a growth (moments reset) an element's first step is the learning rate times the sign of its gradient,
    and where that gradient is rounding, so is the sign. How far that carries is measured on the single process itself, with its sums in
    another order (micro-batches): the worlds' difference may be four times that, or what it may be without such steps."""
    for images in (GROWN, END):
        itself = distance(finished / "usual-1", finished / "order-1", images)
        between = distance(finished / "usual-1", finished / "usual-4", images)
        calm = rounding(finished / "calm-1", finished / "calm-order-1", images)
        assert between <= max(4 * itself, calm), (images, between, itself)


@pytest.mark.campaign(1)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_stages_agree_with_stage_0(finished, stage):
    bound = rounding(finished / "stage0-2", finished / "stage-order-2")
    assert distance(finished / "stage0-2", finished / f"stage{stage}-2") < bound


def steps(run: Path, images: int) -> dict[str, int]:
    return reading.Checkpoint(run / "checkpoints" / reading.folder_name(images)).manifest["steps"]["generator"]


def test_growth_resets_or_keeps_adams_moments(finished):
    before, after = GROWN // 16, (END - GROWN) // 16
    for name in ("keep", "usual"):
        assert steps(finished / f"{name}-1", GROWN) == {"4x4": before}
    assert steps(finished / "keep-1", END) == {"4x4": before + after, "8x8": after}
    assert steps(finished / "usual-1", END) == {"4x4": after, "8x8": after}  # and the end of the fade-in resets nothing
    assert distance(finished / "keep-1", finished / "usual-1", GROWN) == 0
    assert distance(finished / "keep-1", finished / "usual-1", END) > 1e-4


# ---------------------------------------------------------------------------------------------- killed and stopped


class Run:
    """`python -m hires train` with its output read line by line."""

    def __init__(self, overrides: list[str], start: Callable, env: dict):
        command = [sys.executable, "-u", "-m", "hires", "train", *overrides]
        self.process = start(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def read_until(self, *words: str) -> str:
        """The first line with one of the words; fails where the run ends before."""
        for line in self.process.stdout:
            if any(word in line for word in words):
                return line
        return pytest.fail(f"the run ended without {words}: {self.process.stderr.read()}")

    def finish(self) -> int:
        self.process.communicate(timeout=300)
        return self.process.returncode


@pytest.fixture(scope="module")
def whole(tiny, clean_env, tmp_path_factory) -> tuple[Path, float]:
    """An uninterrupted run by the command, and the seconds from its first step to its end."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run = Run([*tiny, f"run={folder}"], partial(subprocess.Popen, text=True), clean_env)  # not forked: what the others are compared with
    run.read_until("kimg")
    began = time.monotonic()
    assert run.finish() == 0
    return folder, time.monotonic() - began


def same_bits(a: Path, b: Path) -> None:
    left, right = (tensors(run, END, reading.FIELDS) for run in (a, b))
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    assert steps(a, END) == steps(b, END)
    records = [json.loads(line) for line in (b / "metrics.jsonl").read_text().splitlines()]
    images = [record["images"] for record in records if "resolution" in record]
    assert images == sorted(set(images)) and images[-1] == END  # a log without a hole's double


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_it_ends_where_the_uninterrupted_run_ends(seed, whole, tiny, forks, clean_env, tmp_path):
    """Each time after a random number of checkpoints and a random while more: short, to hit steps and saves, or long, to hit a growth.

    Goes on until one kill left a checkpoint inside a phase, where resuming is more than beginning a level.
    """
    uninterrupted, seconds = whole
    dice, inside = random.Random(seed), 0
    for attempt in range(20):
        run_folder = tmp_path / f"run-{attempt}"  # another one where the end came before such a kill
        command = [*tiny, f"run={run_folder}", "train.checkpoint_every=16"]
        for _ in range(6):
            run, saves = Run(command, forks.start, clean_env), dice.randint(1, 2)
            if len(list(islice((line for line in run.process.stdout if "saved" in line), saves))) < saves:
                run.finish()
                break
            time.sleep(dice.uniform(0, dice.choice([0.03, 0.03, seconds / 7])))
            run.process.send_signal(signal.SIGKILL)
            assert run.finish() in (0, -signal.SIGKILL)
            left = int(reading.complete(run_folder / "checkpoints")[-1].name.removeprefix("images-"))
            inside += left not in (GROWN, STABLE, END)
            if inside and left > GROWN:
                break
        if inside:
            break
    assert inside
    assert Run(command, forks.start, clean_env).finish() == 0
    same_bits(uninterrupted, run_folder)


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_asked_to_stop_it_saves_and_goes_on_from_there(number, whole, tiny, forks, clean_env, tmp_path):
    command = [*tiny, f"run={tmp_path / 'run'}", "train.checkpoint_every=10k"]
    run = Run(command, forks.start, clean_env)
    run.read_until("kimg")
    run.process.send_signal(number)
    out, err = run.process.communicate(timeout=300)
    assert run.process.returncode == 85, err
    assert "run the same command again" in out and "Traceback" not in err
    newest = reading.newest_valid(tmp_path / "run" / "checkpoints", pytest.fail)
    assert 0 < reading.Checkpoint(newest).images < END
    assert Run(command, forks.start, clean_env).finish() == 0
    same_bits(whole[0], tmp_path / "run")


def test_a_finished_run_started_again_does_nothing_and_succeeds(whole, tiny, hires):
    run, _ = whole
    before = {file: file.stat().st_mtime_ns for file in (run / "checkpoints").rglob("*")}
    again = hires("train", *tiny, f"run={run}")
    assert again.returncode == 0 and "already has 112 of 112 images" in again.stdout
    assert {file: file.stat().st_mtime_ns for file in (run / "checkpoints").rglob("*")} == before


# ---------------------------------------------------------------------------------------------- the order of images


@pytest.mark.parametrize("world", [1, 2, 4])
def test_each_image_is_seen_exactly_once_an_epoch(world, tiny, digits, tmp_path):
    """The ranks' plans through growth, fade and three batch sizes, over more than two epochs of 1,797 images; then from a restart."""
    sizes = ["schedule.levels.4.batch=24", "schedule.levels.4.stable=1000", "schedule.levels.8.batch=16", "schedule.levels.8.fade=333"]
    sizes += ["schedule.levels.8.stable=1500", "schedule.levels.16.batch=8", "schedule.levels.16.fade=500", "schedule.levels.16.stable=1k"]
    config = configuration.load("train", [*tiny, *sizes, "schedule.resolution=16", f"run={tmp_path / 'run'}"])

    def seen(start: int) -> np.ndarray:
        trainers = [Trainer(config, World(rank, world, rank, torch.device("cpu"))) for rank in range(world)]
        images, order = start, []
        while images < trainers[0].end:
            for parts in zip(*(trainer.feed.indices(images) for trainer in trainers), strict=True):
                assert len({len(part) for part in parts}) == 1
                order += parts
                images += sum(map(len, parts))
        assert images == trainers[0].end
        return np.concatenate(order)

    order, total = seen(0), 1797
    assert len(order) > 2 * total
    for epoch in range(len(order) // total):
        assert np.array_equal(np.sort(order[epoch * total : (epoch + 1) * total]), np.arange(total))
    assert not np.array_equal(order[:total], order[total : 2 * total])
    assert len(set(islice(order, 2 * total, None))) == len(order) - 2 * total
    assert np.array_equal(seen(1008 + 160), order[1008 + 160 :])  # a restart in the middle of the second level
    assert not (tmp_path / "run").exists()  # making a trainer writes nothing
