"""What a schedule asks of a machine, computed without training: steps, parameters, and bytes a rank."""

from dataclasses import dataclass

import torch
from torch.autograd.graph import saved_tensors_hooks

from hires import networks
from hires.config import TrainConfig
from hires.objectives.divergence_triangle import PLAYERS
from hires.training.schedule import Level, Schedule


@dataclass(frozen=True)
class LevelPlan:
    """One resolution of the schedule on one rank; bytes."""

    level: Level
    steps: int
    parameters: dict[str, int]
    weights: int  # the network as it computes, and the optimizer's fp32 copy
    gradients: int
    moments: int
    average: int
    activations: int  # of the largest moment of a round, from the tensors autograd keeps


def level_plans(config: TrainConfig, schedule: Schedule, world_size: int) -> list[LevelPlan]:
    """The plan of each level for a rank of `world_size`."""
    return [_plan(config, schedule, level, world_size) for level in schedule.levels]


def _plan(config: TrainConfig, schedule: Schedule, level: Level, world_size: int) -> LevelPlan:
    fading = level.fade > 0
    with torch.device("meta"):
        built = {name: networks.build(config.network, name, level.resolution, fading, config.objective.energy) for name in PLAYERS}
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in built.items()}
    total, stage = sum(parameters.values()), config.zero.stage
    size = 2 if config.train.precision == "bf16" else 4
    share = level.config.batch // world_size
    steps = schedule.steps[level.resolution, True] + schedule.steps[level.resolution, False]
    return LevelPlan(
        level,
        steps,
        parameters,
        weights=total * size // (world_size if stage == 3 else 1) + (total * 4 // world_size if stage else 0),
        gradients=total * size // (world_size if stage >= 2 else 1),
        moments=total * 8 // (world_size if stage else 1),
        average=total * 4 // (world_size if stage else 1),
        activations=_activations(config, built, level.resolution, level.config.micro_batch or share, share),
    )


def _activations(config: TrainConfig, built: dict[str, torch.nn.Module], resolution: int, micro_batch: int, share: int) -> int:
    """Bytes that autograd keeps at the fullest moment: G's synthesis waits while the energy sees x and x_tilde, or while I sees both and G
    reconstructs. With micro-batches the synthesis is made again, so it waits in the second case alone.
    """
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    G, U, I = (built[name].to(dtype) for name in PLAYERS)  # noqa: E741 - the papers' name
    x = torch.empty(1, config.network.image_channels, resolution, resolution, device="meta")
    z = torch.empty(1, config.network.latent, device="meta")
    g, u, i = _kept(G, z), _kept(U, x), _kept(I, x)
    synthesis_waits = g if micro_batch == share else 0
    return micro_batch * max(synthesis_waits + 2 * u, g + g + 2 * i)


def _kept(network: torch.nn.Module, inputs: torch.Tensor) -> int:
    """Bytes of the tensors kept for one image's backward pass, parameters and their scaled copies left out."""
    sizes: dict[int, int] = {}
    kept: list[torch.Tensor] = []  # held, so that no two tensors share an id

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[:1] == (1,):
            kept.append(tensor)
            sizes[tensor.untyped_storage()._cdata] = tensor.numel() * tensor.element_size()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        network(inputs.requires_grad_(), 0.5)
    return sum(sizes.values())
