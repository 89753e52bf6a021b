"""The growing generator G: latents to images."""

import math

import torch
from torch import Tensor, nn

from hires.networks.growing import (
    EqualizedConv2d,
    EqualizedLinear,
    NetworkConfig,
    UpsamplingConv2d,
    activate_and_normalise,
    fade,
    level_name,
    resolutions_up_to,
    upsample,
)


class GeneratorBase(nn.Module):
    """The 4x4 level: dense layer (gain sqrt(2)/4, ProGAN) and a convolution."""

    def __init__(self, config: NetworkConfig, shows_rgb: bool):
        super().__init__()
        channels = config.channels(4)
        self.dense = EqualizedLinear(config.latent, channels * 16, gain=math.sqrt(2) / 4)
        self.conv0 = EqualizedConv2d(channels, channels, 3)
        if shows_rgb:
            self.to_rgb = EqualizedConv2d(channels, config.image_channels, 1, gain=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, d) -> (B, channels(4), 4, 4)."""
        h = self.dense(z).unflatten(1, (-1, 4, 4)).contiguous(memory_format=torch.channels_last)
        h = activate_and_normalise(h)
        return activate_and_normalise(self.conv0(h))


class GeneratorLevel(nn.Module):
    """One resolution: 2x nearest upsampling, then convolutions with pixel norm."""

    def __init__(self, config: NetworkConfig, resolution: int, shows_rgb: bool):
        super().__init__()
        below, here = config.channels(resolution // 2), config.channels(resolution)
        self.conv0 = UpsamplingConv2d(below, here, 3)
        for i in range(1, config.convs):
            setattr(self, f"conv{i}", EqualizedConv2d(here, here, 3))
        self.convs = config.convs
        if shows_rgb:
            self.to_rgb = EqualizedConv2d(here, config.image_channels, 1, gain=1)

    def forward(self, h: Tensor) -> Tensor:
        """(B, channels(r/2), r/2, r/2) -> (B, channels(r), r, r)."""
        for i in range(self.convs):
            h = activate_and_normalise(getattr(self, f"conv{i}")(h))
        return h


class Generator(nn.Module):
    """G: z -> image, grown to `resolution`; linear RGB output (tanh collapses from 16x16 up: see docs/reference/stability.md)."""

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool = False):
        super().__init__()
        self.resolution, self.fading = resolution, fading and resolution > 4
        shown = {resolution, resolution // 2} if self.fading else {resolution}
        self.levels = nn.ModuleDict()
        for r in resolutions_up_to(resolution):
            self.levels[level_name(r)] = GeneratorBase(config, r in shown) if r == 4 else GeneratorLevel(config, r, r in shown)

    def forward(self, z: Tensor, alpha: float = 1.0) -> Tensor:
        """Latents (B, d), z ~ N(0, I) -> images (B, C, r, r), fp32, about [-1, 1] and not clamped; `alpha` is used in a fade alone."""
        h = z.to(self.levels["4x4"].dense.weight.dtype)
        below = h
        for level in self.levels.values():
            below, h = h, level(h)
        x = self.levels[level_name(self.resolution)].to_rgb(h).float()
        if self.fading:
            x = fade(upsample(self.levels[level_name(self.resolution // 2)].to_rgb(below)).float(), x, alpha)
        return x
