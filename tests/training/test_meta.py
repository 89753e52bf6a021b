"""What a GPU would make the host wait for, found without one: rounds of real games on torch's meta device (processes/meta.py).

Nobody waits but DeepSpeed, whose waits are counted here so that they cannot grow. All is blind for streams, cuDNN and nccl itself.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
import json
from pathlib import Path
import sys

import pytest
import torch
import torch.distributed as dist

from hires import config as configuration
from hires.objectives import SYSTEMS
from hires.training.game import Game
from hires.training.guards.agreement import Health
from hires.training.schedule import Schedule
from tests.processes.meta import META, Made, Watch

SCRIPT = Path(__file__).parents[1] / "processes" / "meta.py"
RESOLUTIONS = [4, 8, 16, 32, 64, 128, 256, 512, 1024]
CHAINS = ["objective.chains.steps=2", "objective.chains.replay=8"]
SETTINGS = {"f_ebm": CHAINS, "contrastive_divergence": CHAINS, "f_ebm by a generator": [*CHAINS, "objective.sampler=generator"]}
UNPENALISED = {"divergence_triangle": ["objective.r1=0"], "latent_ebm": ["objective.r1=0", "objective.r1_z=0"]}  # as stage 3 wants them
GAMES = [*SYSTEMS, "f_ebm by a generator"]
HARMLESS = "collective"


@pytest.fixture
def rounds(forks, clean_env) -> Callable[..., dict]:
    """rounds(game, resolution, stage, setting, …) -> what processes/meta.py found."""

    def play(game: str, resolution: int, stage: int, *settings: str) -> dict:
        words = [game.split()[0], resolution, stage, *SETTINGS.get(game, []), *(UNPENALISED.get(game, []) if stage == 3 else []), *settings]
        done = forks.run([sys.executable, SCRIPT, *words], env=clean_env, timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return play


def faults(found: dict) -> list[str]:
    """'plain: wait: hires/training/player.py:258 _step, 3 times', without what DeepSpeed does."""
    return [
        f"{case}: {kind}: {place}, {count} times"
        for case, kinds in found.items()
        for kind, places in kinds.items()
        for place, count in places.items()
        if kind != HARMLESS and not place.startswith("deepspeed/")
    ]


def of_deepspeed(kinds: dict, kind: str) -> int:
    return sum(count for place, count in kinds.get(kind, {}).items() if place.startswith("deepspeed/"))


@pytest.mark.campaign(1)
@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("game", GAMES)
def test_without_deepspeed_no_round_waits_for_the_device(game, resolution, rounds):
    found = rounds(game, resolution, 0, "network=slim")["found"]
    assert not faults(found)
    assert all(found[case][HARMLESS] for case in ("penalty", "plain", "micro-batches"))  # it did look


@pytest.mark.campaign(1)
@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_nor_does_one_of_the_real_width(stage, resolution, rounds):
    assert not faults(rounds("divergence_triangle", resolution, stage, "network=base")["found"])


@pytest.mark.campaign(1)
@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("game,stage", [(game, stage) for game in GAMES for stage in (1, 2, 3) if (game, stage) != ("wgan", 3)])  # refused
def test_deepspeed_waits_no_more_often_than_it_did(game, stage, resolution, rounds):
    """A step of a player with g groups: g + 1 norms and one overflow looked at, g numbers sent; 33 waits a round at 1024x1024."""
    told = rounds(game, resolution, stage, "network=slim")
    assert not faults(told["found"])
    for kinds in told["found"].values():
        assert 0 < of_deepspeed(kinds, "wait") <= told["groups"] + 2 * told["steps"]
        assert of_deepspeed(kinds, "blocking copy") <= told["groups"]
        assert not of_deepspeed(kinds, "mixed devices") and not of_deepspeed(kinds, "CPU tensor in a collective")


# ---------------------------------------------------------------------------------------------- the harness itself


def on_meta(*shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.empty(shape, device=META, dtype=dtype)


SLIPS = {
    "a number": ("wait", lambda x, c: x.sum().item()),
    "a condition": ("wait", lambda x, c: 1 if x.sum() > 0 else 0),
    "a list": ("wait", lambda x, c: x.tolist()),
    "the host": ("wait", lambda x, c: x.cpu()),
    "a copy to the host": ("wait", lambda x, c: c.copy_(x)),
    "chosen rows": ("wait", lambda x, c: x[x > 0]),
    "where": ("wait", lambda x, c: x.nonzero()),
    "equal": ("wait", lambda x, c: torch.equal(x, x)),
    "pageable": ("blocking copy", lambda x, c: c.to(META, non_blocking=True)),
    "not asked to go on": ("blocking copy", lambda x, c: x.copy_(c)),
    "of Python's numbers": ("blocking copy", lambda x, c: torch.tensor([1.0, 2.0], device=META)),
    "indices of the host": ("mixed devices", lambda x, c: x[torch.tensor([1, 2])]),
    "both": ("mixed devices", lambda x, c: x + c),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_each_slip_is_found_by_its_line(slip):
    kind, do = SLIPS[slip]
    watch, x, c = Watch(), on_meta(3), torch.zeros(3)
    with watch, Made(watch), suppress(RuntimeError, NotImplementedError):  # meta itself may refuse
        do(x, c)
    assert watch.found[kind] == Counter({f"tests/training/test_meta.py:{do.__code__.co_firstlineno} <lambda>": 1}), dict(watch.found)


def test_a_tensor_of_the_host_in_a_collective_is_found(world):
    watch = Watch()
    with watch:
        dist.all_reduce(torch.zeros(3))  # which gloo would bear
    assert list(watch.found) == ["CPU tensor in a collective"] and "test_meta.py" in next(iter(watch.found["CPU tensor in a collective"]))


def test_what_costs_nothing_is_not_found():
    watch, x, c = Watch(), on_meta(3), torch.zeros(3)
    watch.pin(c)
    with watch, Made(watch):
        x + 1.0 + torch.tensor(2.0)
        x.copy_(c, non_blocking=True)
        c.to(META, non_blocking=True)
        x[on_meta(2, dtype=torch.int64)]
        torch.where(x > 0, x, 0.0)
        torch.full((), 3.0, device=META)
    assert not watch.found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_torch_says_the_same(world):
    """What meta cannot show: torch itself raises where a round synchronises."""
    config = configuration.load("train", ["experiment=digits", "run=none", "data.root=none", "train.precision=bf16"])
    phase = Schedule(config.schedule).at(0)
    played = Game(config, world, phase.shape)
    images = torch.zeros(phase.batch, 1, phase.resolution, phase.resolution, dtype=torch.uint8).pin_memory()
    health = Health(world, played.objective.TERMS)
    for mode in ("default", "error"):  # the first round also loads kernels
        torch.cuda.set_sync_debug_mode(mode)
        try:
            health.record(played.round(phase, images, due=True), played.norms(), False, phase.images)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert health.look(newest=True) is False
    played.destroy()
