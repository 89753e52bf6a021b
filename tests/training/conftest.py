"""Small players, and checkpoints of them."""

from collections.abc import Callable
import zlib

import pytest
import torch

from hires import networks
from hires.networks import NetworkConfig
from hires.training.player import DecayConfig, OptimizerConfig, Player, ZeroConfig, new_player

NETWORK = NetworkConfig(latent=6, channels_base=64, channels_max=8, convs=1, image_channels=1)


def make_network(player: str, resolution: int = 8, fading: bool = False, config: NetworkConfig = NETWORK) -> torch.nn.Module:
    network = networks.build(config, player, resolution, fading)
    networks.initialise(network, lambda name: torch.Generator().manual_seed(zlib.crc32(name.encode())))
    return network


@pytest.fixture
def make_player(world) -> Callable[..., Player]:
    """make_player(name, resolution, fading, stage, config, precision, clip, weight_decay, name_of) -> a Player of this one process."""

    def make(
        name: str = "energy",
        resolution: int = 8,
        fading: bool = False,
        stage: int = 1,
        config: NetworkConfig = NETWORK,
        precision: str = "fp32",
        clip: float = 1e6,
        weight_decay: DecayConfig | None = None,
        name_of: str = "adam",
    ) -> Player:
        network = make_network(name, resolution, fading, config)
        optimizer = OptimizerConfig(name_of, beta1=0.5, beta2=0.9, clip=clip, weight_decay=weight_decay or DecayConfig())
        return new_player(name, network, optimizer, ZeroConfig(stage), precision, world.device)

    return make


def inputs(resolution: int, seed: int) -> torch.Tensor:
    return torch.randn(4, 1, resolution, resolution, generator=torch.Generator().manual_seed(seed))


def train(player: Player, steps: int, alpha: float = 1.0, resolution: int = 8, decay: float = 0.5) -> None:
    """A few steps of an energy or an inference model on made-up images."""
    for i in range(steps):
        out = player(inputs(resolution, i).to(player.device), alpha)
        loss = sum(t.square().mean() for t in out) if isinstance(out, tuple) else (out - 1).square().mean()
        with player.accumulate():
            player.backward(loss)
        player.step(1e-2, decay)


@pytest.fixture
def trained() -> Callable[..., None]:
    """trained(player, steps, alpha, resolution): as many Adam steps."""
    return train
