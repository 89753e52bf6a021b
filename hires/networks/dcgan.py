"""What the papers' fixed networks are made of (DCGAN): transposed convolutions up from a small square, convolutions of stride 2 down to it.

Every doubling of the side is one 4x4 convolution of stride 2; the smallest square is reached, or left, by a convolution as large as it is.
"""

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from hires.networks.batch_norm import BatchNorm2d

SQUARES = {28: (7, 2), 32: (4, 3), 64: (4, 4), 128: (4, 5)}  # resolution -> side of the smallest square, doublings of it


def square(resolution: int, kind: str, among: tuple[int, ...]) -> tuple[int, int]:
    """(side of the smallest square, doublings) of a network of a kind; raises ValueError for a resolution that it is not built for."""
    if resolution not in among:
        raise ValueError(f"network={kind} at resolution {resolution}: these networks are fixed at {' or '.join(map(str, among))}")
    return SQUARES[resolution]


class Fixed(nn.Module):
    """A network of one size: it neither grows nor fades."""

    def __init__(self, resolution: int):
        super().__init__()
        self.resolution, self.fading = resolution, False


class Up(Fixed):
    """G: z (B, d) -> image (B, C, r, r) in (-1, 1) through tanh; batch norm and ReLU after all but the last convolution, with biases."""

    def __init__(self, latent: int, widths: list[int], channels: int, resolution: int, side: int):
        """`widths`: channels at each size, the smallest square's first."""
        super().__init__(resolution)
        inputs = latent
        for i, width in enumerate(widths):
            kernel, stride, padding = (side, 1, 0) if i == 0 else (4, 2, 1)
            setattr(self, f"deconv{i}", nn.ConvTranspose2d(inputs, width, kernel, stride, padding, bias=False))
            setattr(self, f"norm{i}", BatchNorm2d(width))
            inputs = width
        self.sizes, self.widths = len(widths), widths
        self.to_rgb = nn.ConvTranspose2d(inputs, channels, 3, 1, 1)

    def forward(self, z: Tensor, alpha: float = 1.0) -> Tensor:
        """Latents (B, d) -> images (B, C, r, r), fp32."""
        h = z.to(self.deconv0.weight.dtype)[:, :, None, None]
        for i in range(self.sizes):
            h = F.relu(getattr(self, f"norm{i}")(getattr(self, f"deconv{i}")(h)))
        return self.to_rgb(h).tanh().float()


class Down(Fixed):
    """Images (B, C, r, r) -> features on the smallest square; convolutions without biases, a norm or none, leaky 0.2."""

    def __init__(self, channels: int, widths: list[int], resolution: int, norm: str):
        """`widths`: channels at each size, the image's own first; `norm`: batch, layer (over channels and plane) or none."""
        super().__init__(resolution)
        inputs = channels
        for i, width in enumerate(widths):
            kernel, stride = (3, 1) if i == 0 else (4, 2)
            setattr(self, f"conv{i}", nn.Conv2d(inputs, width, kernel, stride, 1, bias=False))
            if norm != "none":
                setattr(self, f"norm{i}", BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(1, width))
            inputs = width
        self.sizes, self.norm, self.widths = len(widths), norm, widths

    def features(self, x: Tensor, alpha: float = 1.0) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] -> (B, width, side, side)."""
        h = x.to(self.conv0.weight.dtype, memory_format=torch.channels_last)
        for i in range(self.sizes):
            h = getattr(self, f"conv{i}")(h)
            h = F.leaky_relu(h if self.norm == "none" else getattr(self, f"norm{i}")(h), 0.2)
        return h


class DownToEnergy(Down):
    """U: image (B, C, r, r) -> energy (B,)."""

    def __init__(self, channels: int, widths: list[int], resolution: int, side: int, norm: str, form: str, kind: str):
        super().__init__(channels, widths, resolution, norm)
        if form != "identity":
            raise ValueError(f"objective.energy={form} with network={kind}: only identity is built for these networks")
        self.head = nn.Conv2d(widths[-1], 1, side)

    def forward(self, x: Tensor, alpha: float = 1.0) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] -> energies (B,), fp32."""
        return self.head(self.features(x)).float().flatten()


class DownToScore(DownToEnergy):
    """U(x) = -ln D(x), D = sigmoid of the score: a GAN's discriminator, as hires.networks.expert_energy has it."""

    def forward(self, x: Tensor, alpha: float = 1.0, scores: bool = False) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] -> energies (B,), or the scores (B, 1) where `scores`; fp32."""
        s = super().forward(x, alpha)
        return s[:, None] if scores else F.softplus(-s)


class DownToCode(Down):
    """I: image (B, C, r, r) -> mu, logvar (B, d)."""

    def __init__(self, channels: int, widths: list[int], latent: int, resolution: int, side: int, norm: str):
        super().__init__(channels, widths, resolution, norm)
        self.mu = nn.Conv2d(widths[-1], latent, side)
        self.logvar = nn.Conv2d(widths[-1], latent, side)

    def forward(self, x: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
        """Images (B, C, r, r) in [-1, 1] -> mu (B, d), logvar (B, d), fp32."""
        h = self.features(x)
        return self.mu(h).flatten(1).float(), self.logvar(h).flatten(1).float()
