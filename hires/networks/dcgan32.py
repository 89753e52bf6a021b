"""The fixed 32x32 networks of the published CIFAR-10 triangle (P1): a DCGAN generator with batch norm, energy and inference without.

Widths 512-512-256-128 in G, 64-128-256-256 in the energy, 64-128-256-512 in the inference model, times `network.width`; all convolutions
but the last of each are free of biases. A GAN's energy has batch norm too; with `network.energy_norm=layer` either has layer norm. They
neither grow nor fade; `resolution` must be 32.
"""

from hires.networks import dcgan
from hires.networks.growing import NetworkConfig

RESOLUTIONS = (32,)


class Generator(dcgan.Up):
    """G: z (B, d) -> image (B, C, 32, 32) in (-1, 1)."""

    def __init__(self, config: NetworkConfig, resolution: int = 32, fading: bool = False):
        side, _ = dcgan.square(resolution, "dcgan32", RESOLUTIONS)
        super().__init__(config.latent, config.scaled(512, 512, 256, 128), config.image_channels, resolution, side)


class Energy(dcgan.DownToEnergy):
    """U: image (B, C, 32, 32) -> energy (B,)."""

    def __init__(self, config: NetworkConfig, resolution: int = 32, fading: bool = False, form: str = "identity"):
        super().__init__(config.image_channels, *_layout(config, resolution), config.behind("none"), form, "dcgan32")


class GanEnergy(dcgan.DownToScore):
    """U: image (B, C, 32, 32) -> energy (B,), a GAN's on the layers of the triangle's: the baseline beside it.

    With batch norm (DCGAN; Radford et al. 2016): without it one at a quarter width died, its scores fell to 0 (docs/records/claims.md).
    """

    def __init__(self, config: NetworkConfig, resolution: int = 32, fading: bool = False):
        super().__init__(config.image_channels, *_layout(config, resolution), config.behind("batch"), "identity", "dcgan32")


class Inference(dcgan.DownToCode):
    """I: image (B, C, 32, 32) -> mu, logvar (B, d)."""

    def __init__(self, config: NetworkConfig, resolution: int = 32, fading: bool = False):
        side, _ = dcgan.square(resolution, "dcgan32", RESOLUTIONS)
        super().__init__(config.image_channels, config.scaled(64, 128, 256, 512), config.latent, resolution, side, "none")


def _layout(config: NetworkConfig, resolution: int) -> tuple[list[int], int, int]:
    """Of an energy: widths, resolution, side of the smallest square."""
    side, _ = dcgan.square(resolution, "dcgan32", RESOLUTIONS)
    return config.scaled(64, 128, 256, 256), resolution, side
