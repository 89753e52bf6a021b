"""What a schedule asks of a machine, computed without training: steps, parameters, and bytes a rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
import math

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from hires.ground.machine import DTYPES
from hires.objectives import system
from hires.training.game import empty_network
from hires.training.player import bucket, group_of
from hires.training.schedule import Level, Schedule
from hires.training.settings import RunConfig

TWO = 2  # images that autograd is watched with: a batch norm of dense features wants more than one


@dataclass(frozen=True)
class Held:
    """Bytes that the first rank holds for one player; docs/reference/planning.md has them beside measured ones."""

    weights: int  # the network as it computes, and the optimizer's fp32 copy of this rank's share
    gathered: int  # weights of the other ranks, while a pass needs them (stage 3)
    gradients: int  # whole on every stage: a round's backward passes are reduced together, at their end
    buffers: int  # on top of them while they are reduced; stage 3 keeps these all the time
    moments: int
    average: int


@dataclass(frozen=True)
class LevelPlan:
    """One resolution of the schedule on one rank; bytes."""

    level: Level
    steps: int
    parameters: dict[str, int]
    weights: int  # what Held says, of all players; weights with those gathered
    gradients: int  # of the players that hold theirs at the same time
    buffers: int
    moments: int
    average: int
    activations: int  # of the largest moment of a round, from the tensors autograd keeps
    carried: int  # what goes from step to step beside the players: a replay buffer


def level_plans(config: RunConfig, schedule: Schedule, world_size: int) -> list[LevelPlan]:
    """The plan of each level for a rank of `world_size`."""
    return [_plan(config, schedule, level, world_size) for level in schedule.levels]


def level_networks(config: RunConfig, level: Level) -> dict[str, torch.nn.Module]:
    """The networks of a level at their largest (fading in, where it does), without memory for their weights."""
    with torch.device("meta"):
        return {name: empty_network(config, name, level.resolution, level.fade > 0) for name in config.objective.players()}


def _plan(config: RunConfig, schedule: Schedule, level: Level, world_size: int) -> LevelPlan:
    built = level_networks(config, level)
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in built.items()}
    stage, sets = config.zero.stage if world_size > 1 else 0, config.objective.together()
    of = {name: held(network, stage, config.train.precision, world_size) for name, network in built.items()}
    share = max(1, level.config.batch // world_size)
    steps = schedule.steps[level.resolution, True] + schedule.steps[level.resolution, False]
    buffers = [player.buffers for player in of.values()]
    return LevelPlan(
        level,
        steps,
        parameters,
        weights=sum(player.weights for player in of.values()) + max(sum(of[name].gathered for name in names) for names in sets),
        gradients=max(sum(of[name].gradients for name in names) for names in sets),
        buffers=sum(buffers) if stage == 3 else max(buffers),
        moments=sum(player.moments for player in of.values()),
        average=sum(player.average for player in of.values()),
        activations=_activations(config, built, level.resolution, level.config.micro_batch or share, share),
        carried=math.ceil(config.objective.carries(level.resolution, config.network.image_channels) / world_size),
    )


def held(network: torch.nn.Module, stage: int, precision: str, world_size: int) -> Held:
    """What the first of `world_size` ranks holds of a player with this network (on any device, meta among them); bytes."""
    number = DTYPES[precision].itemsize
    sizes = [p.numel() for p in network.parameters()]
    total, share = sum(sizes), share_of(network, stage, world_size)
    if stage == 0:
        # fp32 weights beside bf16 ones; gradients are copied to become fp32, and into one tensor to be reduced
        halved = number < 4
        return Held(
            weights=(number + 4 * halved) * total,
            gathered=0,
            gradients=number * total,
            buffers=4 * total * (halved + (world_size > 1)),
            moments=8 * total,
            average=4 * total,
        )
    return Held(
        weights=number * (share if stage == 3 else share * world_size) + 4 * share,
        gathered=number * total if stage == 3 and world_size > 1 else 0,
        gradients=number * total,
        buffers=number * (bucket(sizes) + share),
        moments=8 * share,
        average=4 * min(share, total),
    )


def share_of(network: torch.nn.Module, stage: int, world_size: int) -> int:
    """Numbers of a rank's share of the network, with DeepSpeed's padding: of each parameter on stage 3, of each group on 1 and 2."""
    if stage == 0:
        return sum(p.numel() for p in network.parameters())
    if stage == 3:
        return sum(math.ceil(p.numel() / world_size) for p in network.parameters())
    groups: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        groups[group_of(name)] = groups.get(group_of(name), 0) + parameter.numel()
    return sum(2 * math.ceil(n / (2 * world_size)) for n in groups.values())


def _activations(config: RunConfig, built: dict[str, torch.nn.Module], resolution: int, micro_batch: int, share: int) -> int:
    """Bytes that autograd keeps at the fullest moment of a round; with micro-batches the synthesis is made again."""
    dtype = DTYPES[config.train.precision]
    given = {
        "x": torch.empty(TWO, config.network.image_channels, resolution, resolution, device="meta"),
        "z": torch.empty(TWO, config.network.latent, device="meta"),
    }
    takes = system(config.objective).TAKES
    labels = [torch.zeros(TWO, dtype=torch.int64, device="meta")] if config.network.classes else []
    kept = {name: _kept(network.to(dtype), *(given[what] for what in takes[name]), labels=labels) for name, network in built.items()}
    return micro_batch * config.objective.fullest(kept, micro_batch == share)


class _ByShape(TorchDispatchMode):
    """The growing networks' operations on the meta device by shapes alone: torch's kernels for them load its compiler first, seconds."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else this mode loads the compiler itself

    def __torch_dispatch__(self, function, _, given=(), named=None):
        shapes, tensors = ATEN.get(function.overloadpacket), [one for one in given if isinstance(one, torch.Tensor)]
        if named or not shapes:
            return function(*given, **(named or {}))
        if function._schema.is_mutable:
            return given[0]
        return torch.empty(shapes(*given), dtype=reduce(torch.promote_types, (one.dtype for one in tensors)), device="meta")


def _broadcast(*given) -> torch.Size:
    return torch.broadcast_shapes(*(one.shape for one in given if isinstance(one, torch.Tensor)))


aten = torch.ops.aten
ATEN = {  # operation -> the shape of its result
    **dict.fromkeys((aten.add, aten.mul, aten.lerp), _broadcast),
    **dict.fromkeys((aten.leaky_relu_, aten.pow_, aten.div_, aten.add_, aten.rsqrt_, aten.mul_), _broadcast),
    aten.addmm: lambda bias, x, weight: (x.shape[0], weight.shape[1]),
    aten.linalg_vector_norm: lambda x, order, over, keep: [1 if i in over else n for i, n in enumerate(x.shape)],
}


def _kept(network: torch.nn.Module, *inputs: torch.Tensor, labels: Sequence[torch.Tensor] = ()) -> int:
    """Bytes of the tensors kept for one image's backward pass, parameters and their scaled copies left out."""
    sizes: dict[int, int] = {}
    kept: list[torch.Tensor] = []  # held, so that no two tensors share an id

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[:1] == (TWO,):
            kept.append(tensor)
            sizes[tensor.untyped_storage()._cdata] = tensor.numel() * tensor.element_size()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), _ByShape():
        network(*(tensor.requires_grad_() for tensor in inputs), 0.5, *labels)
    return sum(sizes.values()) // TWO
