"""The networks of the joint VAE and latent EBM (P2) on CIFAR-10: G and I mirror each other, both with batch norm; an energy of pairs with
spectral normalisation on every layer, its last ones too, of gain 1, and softplus of the score.

At 32x32 as published: 384-384-192-96 channels in G, 48-96-192-384 in I; the pair's image tower doubles 64 to 512 channels by a 3x3 and a
4x4 convolution of stride 2 a size, its latent tower has eight layers of 64 to 512. `network.width` scales all of them. No source has P2's
MNIST, CelebA and LSUN networks: at 28x28 and 64x64 the layout here is that of 32x32 with a size less or more (28x28 ends at 7x7).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from hires.networks import dcgan
from hires.networks.growing import NetworkConfig
from hires.networks.spectral import normalise

RESOLUTIONS = (28, 32, 64)
LEAK = 0.1  # of the energy; I has 0.2


def _doubled(config: NetworkConfig, base: int, count: int) -> list[int]:
    """`count` widths, each twice the one before, from `base` on."""
    return config.scaled(*(base * 2**i for i in range(count)))


class Generator(dcgan.Up):
    """G: z (B, d) -> image (B, C, r, r) in (-1, 1)."""

    def __init__(self, config: NetworkConfig, resolution: int = 32, fading: bool = False):
        side, doublings = dcgan.square(resolution, "p2", RESOLUTIONS)
        widths = _doubled(config, 96, doublings)[::-1]  # ends at 96; the two smallest sizes are as wide
        super().__init__(config.latent, [widths[0], *widths], config.image_channels, resolution, side)


class Inference(dcgan.DownToCode):
    """I: image (B, C, r, r) -> mu, logvar (B, d)."""

    def __init__(self, config: NetworkConfig, resolution: int = 32, fading: bool = False):
        side, doublings = dcgan.square(resolution, "p2", RESOLUTIONS)
        super().__init__(config.image_channels, _doubled(config, 48, doublings + 1), config.latent, resolution, side, "batch")


class Energy(dcgan.DownToEnergy):
    """U: image (B, C, r, r) -> energy (B,): P1's, for a triangle beside P2's game on the same generator and inference model."""

    def __init__(self, config: NetworkConfig, resolution: int = 32, fading: bool = False, form: str = "identity"):
        side, doublings = dcgan.square(resolution, "p2", RESOLUTIONS)
        widths = [*_doubled(config, 64, doublings), *config.scaled(64 * 2 ** (doublings - 1))]
        super().__init__(config.image_channels, widths, resolution, side, "none", form, "p2")


class PairEnergy(dcgan.Fixed):
    """U: (image, latent) -> energy above 0: softplus of a score whose every layer is spectrally normalised, so Lipschitz."""

    form = "softplus"

    def __init__(self, config: NetworkConfig, resolution: int = 32, fading: bool = False):
        super().__init__(resolution)
        side, doublings = dcgan.square(resolution, "p2", RESOLUTIONS)
        *steps, top = _doubled(config, 64, doublings + 1)
        (wide,) = config.scaled(512)
        layers, inputs = [], config.image_channels
        for width in steps:
            layers += [nn.Conv2d(inputs, width, 3, 1, 1), nn.Conv2d(width, width, 4, 2, 1)]
            inputs = width
        self.image = nn.ModuleList([*layers, nn.Conv2d(inputs, top, 3, 1, 1), nn.Conv2d(top, wide, side)])
        self.widths, self.of_latent = [*steps, top, wide], config.scaled(64, 64, 128, 128, 256, 256, 512, 512)
        self.latent = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([config.latent, *self.of_latent]))
        self.joint, self.head = nn.Linear(2 * wide, 2 * wide), nn.Linear(2 * wide, 1)
        for layer in (*self.image, *self.latent, self.joint, self.head):
            normalise(layer)

    def features(self, x: Tensor, alpha: float = 1.0) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] -> (B, 512 times the width), the image's end of the pair."""
        return _through(self.image, x.to(self.head.bias.dtype, memory_format=torch.channels_last)).flatten(1)

    def forward(self, x: Tensor, z: Tensor, alpha: float = 1.0) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] and latents (B, d) -> energies (B,), fp32."""
        both = torch.cat([self.features(x), _through(self.latent, z.to(self.head.bias.dtype))], 1)
        return F.softplus(self.head(F.leaky_relu(self.joint(both), LEAK)).float().squeeze(1))


def _through(layers: nn.ModuleList, h: Tensor) -> Tensor:
    """The layers with a leaky ReLU between them, none after the last."""
    for layer in layers[:-1]:
        h = F.leaky_relu(layer(h), LEAK)
    return layers[-1](h)
