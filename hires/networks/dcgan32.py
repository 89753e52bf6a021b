"""The fixed 32x32 networks of the published CIFAR-10 triangle (P1): a DCGAN generator with batch norm, energy and inference without.

Widths 512-512-256-128 in G, 64-128-256-256 in the energy, 64-128-256-512 in the inference model, times `network.width`; all convolutions
but the last of each are free of biases. They neither grow nor fade; `resolution` must be 32.
"""

from torch import Tensor, nn
import torch.nn.functional as F

from hires.networks.growing import NetworkConfig

RESOLUTIONS = (32,)


def _require_32(resolution: int) -> None:
    if resolution != 32:
        raise ValueError(f"network=dcgan32 at resolution {resolution}: these networks are fixed at 32")


class Generator(nn.Module):
    """G: z (B, d) -> image (B, C, 32, 32) in (-1, 1) through tanh."""

    def __init__(self, config: NetworkConfig, resolution: int = 32, fading: bool = False):
        super().__init__()
        _require_32(resolution)
        self.resolution, self.fading = 32, False
        widths = [config.latent, *config.scaled(512, 512, 256, 128)]
        shapes = [(4, 1, 0), (4, 2, 1), (4, 2, 1), (4, 2, 1)]
        for i, (kernel, stride, padding) in enumerate(shapes):
            setattr(self, f"deconv{i}", nn.ConvTranspose2d(widths[i], widths[i + 1], kernel, stride, padding, bias=False))
            setattr(self, f"norm{i}", nn.BatchNorm2d(widths[i + 1]))
        self.to_rgb = nn.ConvTranspose2d(widths[-1], config.image_channels, 3, 1, 1)

    def forward(self, z: Tensor, alpha: float = 1.0) -> Tensor:
        """Latents (B, d) -> images (B, C, 32, 32), fp32."""
        h = z.to(self.deconv0.weight.dtype)[:, :, None, None]
        for i in range(4):
            h = F.relu(getattr(self, f"norm{i}")(getattr(self, f"deconv{i}")(h)))
        return self.to_rgb(h).tanh().float()


class _Encoder(nn.Module):
    def __init__(self, config: NetworkConfig, resolution: int, widths: list[int]):
        super().__init__()
        _require_32(resolution)
        self.resolution, self.fading = 32, False
        inputs = config.image_channels
        for i, width in enumerate(widths):
            kernel, stride = (3, 1) if i == 0 else (4, 2)
            setattr(self, f"conv{i}", nn.Conv2d(inputs, width, kernel, stride, 1, bias=False))
            inputs = width

    def features(self, x: Tensor) -> Tensor:
        h = x.to(self.conv0.weight.dtype)
        for i in range(4):
            h = F.leaky_relu(getattr(self, f"conv{i}")(h), 0.2)
        return h


class Energy(_Encoder):
    """U: image (B, C, 32, 32) -> energy (B,)."""

    def __init__(self, config: NetworkConfig, resolution: int = 32, fading: bool = False, form: str = "identity"):
        widths = config.scaled(64, 128, 256, 256)
        super().__init__(config, resolution, widths)
        if form != "identity":
            raise ValueError(f"objective.energy={form} with network=dcgan32: only identity is built for these networks")
        self.head = nn.Conv2d(widths[-1], 1, 4)

    def forward(self, x: Tensor, alpha: float = 1.0) -> Tensor:
        """Images (B, C, 32, 32) in [-1, 1] -> energies (B,), fp32."""
        return self.head(self.features(x)).float().flatten()


class Inference(_Encoder):
    """I: image (B, C, 32, 32) -> mu, logvar (B, d)."""

    def __init__(self, config: NetworkConfig, resolution: int = 32, fading: bool = False):
        widths = config.scaled(64, 128, 256, 512)
        super().__init__(config, resolution, widths)
        self.mu = nn.Conv2d(widths[-1], config.latent, 4)
        self.logvar = nn.Conv2d(widths[-1], config.latent, 4)

    def forward(self, x: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
        """Images (B, C, 32, 32) in [-1, 1] -> mu (B, d), logvar (B, d), fp32."""
        h = self.features(x)
        return self.mu(h).flatten(1).float(), self.logvar(h).flatten(1).float()
