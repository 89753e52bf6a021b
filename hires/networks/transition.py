"""VCD's transition operator (Zhai et al. 2016, §5): an image's code, mixed with noise, decoded to the next image of a Markov chain.

The paper's code is h = tanh(a) and half of its dimensions are replaced by U(-1, 1). Here h = erf(a / sqrt 2), much the same curve, and
a standard normal a then *is* a uniform h: mixing is done before the squashing, with N(0, 1), and the decoder reads latents as every
generator here does, so that a run's samples, reconstructions and videos need nothing of their own.
"""

import math

import torch
from torch import Tensor

from hires.networks.generator import Generator
from hires.networks.growing import GrowingEncoder, NetworkConfig

POINT = -20.0  # log-variance of a code that is a point


class Encoder(GrowingEncoder):
    """The encoder: image -> code before its squashing; no batch norm (P3 has one), for a code must be a function of one image."""

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool = False):
        super().__init__(config, resolution, fading, outputs=config.latent)

    def forward(self, x: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
        """Images (B, C, r, r) in [-1, 1] -> a (B, d) and its log-variance, -20 everywhere: no spread; both fp32."""
        a = super().forward(x, alpha)
        return a, torch.full_like(a, POINT)


class Decoder(Generator):
    """The decoder: the growing generator on h = erf(a / sqrt 2) in (-1, 1), uniform for a ~ N(0, 1)."""

    def forward(self, a: Tensor, alpha: float = 1.0) -> Tensor:
        """Codes (B, d) -> images (B, C, r, r), fp32, about [-1, 1] and not clamped."""
        return super().forward(torch.erf(a.float() / math.sqrt(2)), alpha)


def mix(a: Tensor, coin: Tensor, noise: Tensor) -> Tensor:
    """Codes (B, d) with each dimension kept where `coin`, N(0, 1) noise (B, d), is above 0 (probability 1/2), else `noise`, N(0, 1) too."""
    return torch.where(coin > 0, a, noise)


@torch.no_grad()
def markov_chain(encoder: Encoder, decoder: Decoder, x: Tensor, steps: int, generator: torch.Generator, alpha: float = 1.0) -> Tensor:
    """Repeated transitions from images x (N, C, r, r) -> (N, steps + 1, C, r, r), the first of each row x itself.

    An image is clamped to [-1, 1] before the next transition; `generator` is a CPU generator.
    """
    chain = [x]
    for _ in range(steps):
        a, _ = encoder(chain[-1].clamp(-1, 1), alpha)
        coin, noise = torch.randn(2, *a.shape, generator=generator).to(a)
        chain.append(decoder(mix(a, coin, noise), alpha))
    return torch.stack(chain, 1)
