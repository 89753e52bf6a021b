"""The residual energy of f-EBM (P4) at 32x32; its variational function H is alike. No biases but the last, no normalisation over a batch.

A 3x3 convolution, six residual blocks of two of them (128, 128, 256, 256, 256, 256 channels times `network.width`), of which the first, the
third and the fifth halve the side after their sum, then ReLU, a sum over the 4x4 square and a dense layer. Spectral normalisation on every
convolution; the second of a block starts at next to nothing and is divided by its norm where that is above 1 alone, so that a block starts
as nothing but its activation. With `network.classes` a picture comes with a label, which every block reads; beside the gains by class the
published code has a part of them that all classes share.
"""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from hires.networks import dcgan
from hires.networks.growing import NetworkConfig
from hires.networks.spectral import AtMostOne, normalise

RESOLUTIONS = (32,)
LEAK = 0.2


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


class Block(nn.Module):
    """(B, inputs, r, r) -> (B, outputs, r, r), or half the side where `halves`."""

    def __init__(self, inputs: int, outputs: int, halves: bool):
        super().__init__()
        self.halves = halves
        self.conv0, self.conv1 = normalise(_conv(inputs, outputs)), normalise(_conv(outputs, outputs), AtMostOne)
        self.beside = normalise(_conv(inputs, outputs)) if inputs != outputs else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        return self._sum(h, self.conv1(F.leaky_relu(self.conv0(h), LEAK)))

    def _sum(self, h: Tensor, inside: Tensor) -> Tensor:
        h = self.beside(h) + inside
        return F.leaky_relu(F.avg_pool2d(h, 2) if self.halves else h, LEAK)


class BlockByClass(Block):
    """The same with labels y (B,): a bias by class on the input of each of the two, a gain by class on the second's output."""

    def __init__(self, inputs: int, outputs: int, halves: bool, classes: int):
        super().__init__(inputs, outputs, halves)
        self.bias0, self.bias1 = (nn.Parameter(torch.zeros(classes, channels)) for channels in (inputs, outputs))
        self.gain = nn.Parameter(torch.ones(classes, outputs))

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        bias0, bias1, gain = (F.embedding(y, of)[:, :, None, None] for of in (self.bias0, self.bias1, self.gain))
        return self._sum(h, gain * self.conv1(F.leaky_relu(self.conv0(h + bias0), LEAK) + bias1))


class Energy(dcgan.Fixed):
    """U: image (B, C, 32, 32) -> energy (B,), free."""

    def __init__(self, config: NetworkConfig, resolution: int = 32, fading: bool = False, form: str = "identity"):
        super().__init__(resolution)
        dcgan.square(resolution, "p4", RESOLUTIONS)
        if form != "identity":
            raise ValueError(f"objective.energy={form} with network=p4: only identity is built for this network")
        narrow, wide = self.widths = config.scaled(128, 256)
        self.from_image = normalise(_conv(config.image_channels, narrow))
        widths, self.classes = [narrow, narrow, wide, wide, wide, wide], config.classes
        block = partial(BlockByClass, classes=config.classes) if config.classes else Block
        self.blocks = nn.ModuleList(block(a, b, i % 2 == 0) for i, (a, b) in enumerate(pairwise([narrow, *widths])))
        self.head = nn.Linear(wide, 1)

    def features(self, x: Tensor, alpha: float = 1.0, y: Tensor | None = None) -> Tensor:
        """Images (B, C, 32, 32) in [-1, 1], and labels (B,) where it has classes -> (B, 256 times the width), sums over the plane; the
        network itself counts from 0 to 1.
        """
        x = x.to(self.head.weight.dtype, memory_format=torch.channels_last)
        h = F.leaky_relu(self.from_image((x + 1) / 2), LEAK)
        for block in self.blocks:
            h = block(h) if y is None else block(h, y)
        return h.relu().sum((2, 3))

    def forward(self, x: Tensor, alpha: float = 1.0, y: Tensor | None = None) -> Tensor:
        """Images (B, C, 32, 32) in [-1, 1], and labels (B,) where it has classes -> energies (B,), fp32.

        Of an image without a label, where it has classes: -log sum_y exp(-U(x, y)), the energy of the mixture.
        """
        if self.classes and y is None:
            each = [self(x, alpha, torch.full_like(x[:, 0, 0, 0], k, dtype=torch.int64)) for k in range(self.classes)]
            return -(-torch.stack(each)).logsumexp(0)
        return self.head(self.features(x, alpha, y)).float().squeeze(1)


def start(name: str, parameter: Tensor, generator: torch.Generator) -> None:
    """The published start: N(0, 1) under spectral normalisation, N(0, 1e-10) in a block's second layer, Glorot's uniform at the end, no
    class unlike another.
    """
    if "bias" in name:
        parameter.zero_()
    elif name.endswith("gain"):
        parameter.fill_(1)
    elif name == "head.weight":
        limit = (6 / sum(parameter.shape)) ** 0.5
        parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * limit)
    else:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1e-10 if ".conv1." in name else 1.0))
