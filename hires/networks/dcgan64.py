"""P1's networks for 64x64, and its ImageNet at 32x32: those of dcgan32 with twice the channels and batch norm in all three.

The paper says no more. Here at 32x32 every width is doubled, at 64x64 a size with half the channels lies before it at the image's end,
and at 128x128, where the paper has none, another of 64; batch norm follows each convolution but the last. With it a network is a function
of its batch: in training real pictures and each kind of fake go through the energy and the inference model apart, as in DCGAN; in use
both have the statistics of real pictures.
`network.energy_norm=layer` gives the energy layer norm instead, `network.width` scales.
"""

from hires.networks import dcgan
from hires.networks.growing import NetworkConfig

RESOLUTIONS = (32, 64, 128)


class Generator(dcgan.Up):
    """G: z (B, d) -> image (B, C, r, r) in (-1, 1)."""

    def __init__(self, config: NetworkConfig, resolution: int = 64, fading: bool = False):
        side, doublings = dcgan.square(resolution, "dcgan64", RESOLUTIONS)
        widths = config.scaled(1024, 1024, 512, 256, 128, 64)[: doublings + 1]
        super().__init__(config.latent, widths, config.image_channels, resolution, side)


class Energy(dcgan.DownToEnergy):
    """U: image (B, C, r, r) -> energy (B,)."""

    def __init__(self, config: NetworkConfig, resolution: int = 64, fading: bool = False, form: str = "identity"):
        super().__init__(config.image_channels, *_layout(config, resolution), config.behind("batch"), form, "dcgan64")


class GanEnergy(dcgan.DownToScore):
    """U: image (B, C, r, r) -> energy (B,), a GAN's on the layers of the triangle's."""

    def __init__(self, config: NetworkConfig, resolution: int = 64, fading: bool = False):
        super().__init__(config.image_channels, *_layout(config, resolution), config.behind("batch"), "identity", "dcgan64")


class Inference(dcgan.DownToCode):
    """I: image (B, C, r, r) -> mu, logvar (B, d)."""

    def __init__(self, config: NetworkConfig, resolution: int = 64, fading: bool = False):
        side, doublings = dcgan.square(resolution, "dcgan64", RESOLUTIONS)
        widths = config.scaled(64, 64, 128, 256, 512, 1024)[-doublings - 1 :]
        super().__init__(config.image_channels, widths, config.latent, resolution, side, "batch")


def _layout(config: NetworkConfig, resolution: int) -> tuple[list[int], int, int]:
    """Of an energy: widths, resolution, side of the smallest square."""
    side, doublings = dcgan.square(resolution, "dcgan64", RESOLUTIONS)
    return config.scaled(64, 64, 128, 256, 512, 512)[-doublings - 1 :], resolution, side
