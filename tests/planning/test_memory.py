"""`hires plan` counts what a real run then holds."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from hires import networks
from hires.config import load
from hires.objectives.divergence_triangle import PLAYERS
from hires.planning import memory
from hires.planning.memory import _kept, level_plans
from hires.training.schedule import Schedule

SLIM = ["experiment=celebahq_1024", "network=slim", "schedule.resolution=64", "train.precision=bf16"]


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
    """What two real ranks hold is compared in test_scaling.py."""
    _, one = plans(f"zero.stage={stage}", "train.precision=fp32", "objective.r1=0")
    _, four = plans(f"zero.stage={stage}", "train.precision=fp32", "objective.r1=0", world_size=4)
    parameters = one[-1].parameters
    total, close = sum(parameters.values()), {"abs": 4096}  # padding
    together = max(parameters["energy"], parameters["generator"] + parameters["inference"])
    largest = max(parameters.values())
    assert one[-1].moments == pytest.approx(8 * total, **close)
    assert four[-1].moments == pytest.approx(8 * total if stage == 0 else 2 * total, **close)
    assert four[-1].gradients == one[-1].gradients == 4 * together  # reduced when all of a round's backwards are done
    assert four[-1].average == pytest.approx(4 * total if stage == 0 else total, **close)
    masters = 0 if stage == 0 else total  # fp32 copies that the sharded optimizer steps
    assert four[-1].weights == pytest.approx(masters + (total + 4 * together if stage == 3 else 4 * total), **close)
    bucket = 5_000_000
    share = {0: 4 * largest, 1: 4 * bucket + largest, 2: 4 * bucket + largest, 3: 3 * 4 * bucket + total}[stage]
    assert four[-1].buffers == pytest.approx(share, **close)


@pytest.mark.parametrize(
    "updates,sets", [("published", ["generator"]), ("energy_first", ["generator", "inference"]), ("simultaneous", PLAYERS)]
)
def test_gradients_are_those_held_at_one_time(updates, sets):
    _, levels = plans(f"objective.updates={updates}", "train.precision=fp32", "zero.stage=1")
    most = max(levels[-1].parameters.values()) if len(sets) == 1 else sum(levels[-1].parameters[name] for name in sets)
    assert levels[-1].gradients == 4 * most


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
    assert _kept(imagined, torch.empty(2, *inputs.shape[1:], device="meta")) == pytest.approx(sum(kept.values()), rel=0.05)


@pytest.mark.parametrize("objective", ["divergence_triangle", "r3gan"])
def test_a_step_with_the_penalty_is_the_fullest(objective):
    """Beside the waiting synthesis autograd keeps the penalised passes of x and x_tilde with the graphs of their gradients."""
    config, levels = plans(f"objective={objective}")
    built = memory.level_networks(config, levels[-1].level)
    x = torch.empty(2, 3, 64, 64, device="meta", requires_grad=True)
    kept: dict[int, int] = {}
    held = []

    def pack(tensor):
        if tensor.shape[:1] == (2,):
            held.append(tensor)
            kept[tensor.untyped_storage()._cdata] = tensor.numel() * tensor.element_size()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        (slope,) = torch.autograd.grad(built["energy"].bfloat16()(x, 0.5).sum(), x, create_graph=True)
        slope.square().sum()
    truly = 32 * (sum(kept.values()) + _kept(built["generator"].bfloat16(), torch.empty(2, config.network.latent, device="meta")))
    assert truly < levels[-1].activations < 1.1 * truly
    _, without = plans(f"objective={objective}", "objective.r1=0")
    assert without[-1].activations < levels[-1].activations


def test_no_elementwise_operation_of_a_growing_network_is_left_to_torch(monkeypatch):
    """Its kernels for the meta device load torch's compiler, which takes longer than the whole plan."""
    left = []

    class Watched(memory._ByShape):
        def __torch_dispatch__(self, function, types, given=(), named=None):
            if torch.Tag.pointwise in function.tags and not named and function.overloadpacket not in memory.ATEN:
                left.append(str(function))
            return super().__torch_dispatch__(function, types, given, named)

    monkeypatch.setattr(memory, "_ByShape", Watched)
    plans("network.convs=1")
    assert not left


def test_micro_batches_lower_the_activations():
    _, whole = plans("schedule.levels.64.batch=32")
    _, parts = plans("schedule.levels.64.batch=32", "schedule.levels.64.micro_batch=8")
    assert parts[-1].activations < whole[-1].activations / 3
