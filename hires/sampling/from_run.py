"""A run's networks with their moving averages, out of a checkpoint of any world size and ZeRO stage, in one process."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from torch import nn

from hires import networks
from hires.config import TrainConfig
from hires.errors import HiresError
from hires.objectives.divergence_triangle import PLAYERS
from hires.training import state
from hires.training.schedule import parse_images


@dataclass
class RunNetworks:
    """The three networks, eval, fp32, on the CPU, and where they come from."""

    config: TrainConfig
    networks: dict[str, nn.Module]
    images: int
    resolution: int
    fading: bool
    alpha: float
    checkpoint: Path


def load(run: str, at: str = "") -> RunNetworks:
    """The newest checkpoint of a run, or the newest that is not past `at` images; raises HiresError where there is none."""
    folder = Path(run) / "checkpoints"
    limit = parse_images(at, "at") if at else None
    found = [p for p in state.complete(folder) if limit is None or int(p.name.removeprefix("images-")) <= limit]
    if not found:
        there = f"{run} has {', '.join(p.name for p in state.complete(folder)) or 'no checkpoint'}"
        raise HiresError(f"run={run}: no whole checkpoint{f' at or before {at} images' if at else ''}; {there}")
    checkpoint = state.Checkpoint(found[-1])
    manifest = checkpoint.manifest
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), manifest["config"]))
    loaded = {}
    for name in PLAYERS:
        network = networks.build(config.network, name, manifest["resolution"], manifest["fading"], config.objective.energy)
        lacking = checkpoint.load_network(network, name, "ema")
        if lacking:
            raise HiresError(f"{found[-1]}: {name} lacks {', '.join(sorted(lacking)[:3])}")
        loaded[name] = network.eval().requires_grad_(False)
    return RunNetworks(config, loaded, checkpoint.images, manifest["resolution"], manifest["fading"], manifest["alpha"], found[-1])
