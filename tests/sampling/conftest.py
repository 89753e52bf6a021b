"""A small bundle of random networks, and pictures in files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
import pytest
import torch

from hires import networks as nets
from hires.bundle.writing import PLAYERS, write_files
from hires.networks import NetworkConfig


@pytest.fixture(scope="session")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unchecked bundle: 3 channels, 8x8, d = 8, random weights and biases; not to be changed."""
    config = NetworkConfig(kind="growing", latent=8, channels_base=256, channels_max=12, convs=1, image_channels=3)
    made = {}
    for player in PLAYERS:
        network = nets.build(config, player, 8)
        nets.initialise(network, lambda name, player=player: torch.Generator().manual_seed(sum(map(ord, player + name))))
        with torch.no_grad():
            for name, tensor in network.named_parameters():
                if name.endswith("bias"):
                    tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)
        made[player] = network.eval()
    folder = tmp_path_factory.mktemp("sampler") / "bundle"
    write_files(folder, config, 8, made, {"data": "none"}, "bundle")
    return folder


@pytest.fixture(scope="session")
def save_pictures() -> Callable[..., Path]:
    """save_pictures(folder, count, size=12, start=0) -> the folder, with count random RGB files 000.png, ... of size x size pixels."""

    def save(folder: Path, count: int, size: int = 12, start: int = 0) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(start, start + count):
            pixels = np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:03d}.png")
        return folder

    return save
