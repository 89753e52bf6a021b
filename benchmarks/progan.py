"""A progressive GAN as the field's own code usually has it: the peer that benchmarks/step.py times beside this project's step.

Two networks of ProGAN's layout (Karras et al. 2018) on the channels of the configuration, in plain torch and torch's default memory format:
equalised weights scaled in each pass, nearest upsampling and convolution in turn, pixel norm by squares and their mean, two convolutions
and a 2x2 mean a level of the critic, standard deviation over the batch at its end. Logistic losses that do not saturate (Goodfellow et al.
2014), R1 on real images (Mescheder et al. 2018) in the steps that ask for it, torch's Adam as it comes, and a moving average of the
generator. It shares nothing with hires but the channels.
"""

import copy
import math

import torch
from torch import Tensor, nn
import torch.nn.functional as F

GAMMA = 10.0  # of R1


class Conv(nn.Module):
    """Convolution of the same size whose weight is scaled at run time."""

    def __init__(self, inputs: int, outputs: int, kernel: int, gain: float = math.sqrt(2)):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale, self.padding = gain / math.sqrt(inputs * kernel**2), kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class Linear(nn.Module):
    """The same of a dense layer."""

    def __init__(self, inputs: int, outputs: int, gain: float = math.sqrt(2)):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


class PixelNorm(nn.Module):
    """Each pixel's features over their root mean square."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt((x**2).mean(1, keepdim=True) + 1e-8)


class Generator(nn.Module):
    """Latents (B, d) -> images (B, C, r, r)."""

    def __init__(self, shape, resolution: int):
        super().__init__()
        top = shape.channels(4)
        self.dense = Linear(shape.latent, top * 16, math.sqrt(2) / 4)
        layers: list[nn.Module] = [nn.LeakyReLU(0.2), PixelNorm(), Conv(top, top, 3), nn.LeakyReLU(0.2), PixelNorm()]
        side = 4
        while side < resolution:
            side *= 2
            layers.append(nn.Upsample(scale_factor=2))
            for inputs in [shape.channels(side // 2), *[shape.channels(side)] * (shape.convs - 1)]:
                layers += [Conv(inputs, shape.channels(side), 3), nn.LeakyReLU(0.2), PixelNorm()]
        self.layers = nn.Sequential(*layers, Conv(shape.channels(side), shape.image_channels, 1, gain=1))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.dense(z).view(len(z), -1, 4, 4))


class Critic(nn.Module):
    """Images (B, C, r, r) -> scores (B, 1)."""

    def __init__(self, shape, resolution: int):
        super().__init__()
        layers: list[nn.Module] = [Conv(shape.image_channels, shape.channels(resolution), 1), nn.LeakyReLU(0.2)]
        side = resolution
        while side > 4:
            here, below = shape.channels(side), shape.channels(side // 2)
            for outputs in [*[here] * (shape.convs - 1), below]:
                layers += [Conv(here, outputs, 3), nn.LeakyReLU(0.2)]
            layers.append(nn.AvgPool2d(2))
            side //= 2
        self.layers, top = nn.Sequential(*layers), shape.channels(4)
        self.last = nn.Sequential(Conv(top + 1, top, 3), nn.LeakyReLU(0.2), nn.Flatten())
        self.head = nn.Sequential(Linear(top * 16, top), nn.LeakyReLU(0.2), Linear(top, 1, gain=1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(x)
        spread = h.std(0, unbiased=False).mean().expand(len(h), 1, *h.shape[2:])
        return self.head(self.last(torch.cat([h, spread], 1)))


class ProGAN:
    """One step of the critic, then one of the generator."""

    def __init__(self, shape, resolution: int, device: torch.device, dtype: torch.dtype = torch.float32):
        self.G, self.D = (kind(shape, resolution).to(device, dtype) for kind in (Generator, Critic))
        self.average = copy.deepcopy(self.G)
        self.adams = [torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.0, 0.99), eps=1e-8) for network in (self.G, self.D)]

    def step(self, x: Tensor, z: Tensor, penalise: bool) -> None:
        """On images x and latents z, used for both steps."""
        of_g, of_d = self.adams
        self._train(self.D, self.G)
        of_d.zero_grad()
        with torch.no_grad():
            fake = self.G(z)
        x = x.detach().requires_grad_(penalise)
        real = self.D(x)
        loss = F.softplus(-real).mean() + F.softplus(self.D(fake)).mean()
        if penalise:
            (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
            loss = loss + GAMMA / 2 * slope.square().sum((1, 2, 3)).mean()
        loss.backward()
        of_d.step()
        self._train(self.G, self.D)
        of_g.zero_grad()
        F.softplus(-self.D(self.G(z))).mean().backward()
        of_g.step()
        with torch.no_grad():
            for mean, parameter in zip(self.average.parameters(), self.G.parameters(), strict=True):
                mean.lerp_(parameter, 0.01)

    @staticmethod
    def _train(one: nn.Module, other: nn.Module) -> None:
        one.requires_grad_(True)
        other.requires_grad_(False)
