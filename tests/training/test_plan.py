"""`hires plan` counts what a real run then holds."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from hires import networks
from hires.config import load
from hires.objectives.divergence_triangle import PLAYERS
from hires.training.plan import _kept, level_plans
from hires.training.schedule import Schedule

SLIM = ["experiment=celebahq_1024", "network=slim", "schedule.resolution=64"]


def plans(*overrides: str, world_size: int = 1):
    config = load("plan", [*SLIM, *overrides])
    return config, level_plans(config, Schedule(config.schedule), world_size)


def test_parameters_are_those_of_the_networks_that_train():
    config, levels = plans()
    for plan in levels:
        for name in PLAYERS:
            network = networks.build(config.network, name, plan.level.resolution, plan.level.fade > 0)
            assert plan.parameters[name] == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_sharded_bytes_fall_with_the_world_and_the_others_do_not(stage):
    _, one = plans(f"zero.stage={stage}", "train.precision=fp32", "objective.r1=0")
    _, four = plans(f"zero.stage={stage}", "train.precision=fp32", "objective.r1=0", world_size=4)
    total = sum(one[-1].parameters.values())
    assert one[-1].moments == 8 * total
    assert four[-1].moments == (8 * total if stage == 0 else 2 * total)
    assert four[-1].gradients == (total if stage >= 2 else 4 * total)
    assert four[-1].average == (4 * total if stage == 0 else total)
    masters = 0 if stage == 0 else total  # fp32 copies that the sharded optimizer steps
    assert four[-1].weights == masters + (total if stage == 3 else 4 * total)


@pytest.mark.parametrize("player", PLAYERS)
def test_activation_bytes_are_those_that_autograd_keeps_on_a_real_device(player):
    config, _ = plans("network.convs=1")
    network = networks.build(config.network, player, 16, True)
    networks.initialise(network, lambda name: torch.Generator().manual_seed(1))
    inputs = torch.randn(1, config.network.latent) if player == "generator" else torch.randn(1, 3, 16, 16)
    kept: dict[int, int] = {}
    held = []

    def pack(tensor):
        if tensor.shape[:1] == (1,):
            held.append(tensor)
            kept[tensor.untyped_storage().data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        network(inputs.requires_grad_(), 0.5)
    with torch.device("meta"):
        imagined = networks.build(config.network, player, 16, True)
    assert _kept(imagined, torch.empty(inputs.shape, device="meta")) == pytest.approx(sum(kept.values()), rel=0.05)


def test_micro_batches_lower_the_activations():
    _, whole = plans("schedule.levels.64.batch=32")
    _, parts = plans("schedule.levels.64.batch=32", "schedule.levels.64.micro_batch=8")
    assert parts[-1].activations < whole[-1].activations / 3
