"""Bounded energies of experts (Zhai et al. 2016): K sigmoid units on the growing body, each a yes or no that it should be sure of."""

import torch
from torch import Tensor
import torch.nn.functional as F

from hires.networks.growing import GrowingEncoder, NetworkConfig

CLIP = 1e-4  # an expert's probability stays in [CLIP, 1 - CLIP], as published: beyond it there is no gradient


def probabilities(scores: Tensor) -> Tensor:
    """Scores (B, K) -> the experts' probabilities (B, K) in [1e-4, 1 - 1e-4]."""
    return torch.sigmoid(scores).clamp(CLIP, 1 - CLIP)


def binary_entropy(p: Tensor) -> Tensor:
    """H(p) = -p ln p - (1 - p) ln(1 - p) in nats, elementwise, in [0, ln 2]; p in (0, 1)."""
    return -p * p.log() - (1 - p) * (1 - p).log()


class ExpertEnergy(GrowingEncoder):
    """U(x) = scale times the mean over j of H(sigmoid(s_j(x))), in [0, scale ln 2] nats: in P3 the scale is K, the number of experts.

    With another scale, weights beside it do not depend on K. `features` is the layer that the experts look at.
    """

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool = False, experts: int = 128, scale: float = 1.0):
        super().__init__(config, resolution, fading, outputs=experts)
        self.scale = scale

    def forward(self, x: Tensor, alpha: float = 1.0, scores: bool = False) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] -> energies (B,), or the experts' scores (B, K) where `scores`; fp32."""
        s = super().forward(x, alpha)
        return s if scores else self.scale * binary_entropy(probabilities(s)).mean(1)


class GanEnergy(GrowingEncoder):
    """U(x) = -ln D(x), D = sigmoid of one unit: a GAN's discriminator read as an energy; not bounded from above."""

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool = False):
        super().__init__(config, resolution, fading, outputs=1)

    def forward(self, x: Tensor, alpha: float = 1.0, scores: bool = False) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] -> energies (B,), or the unit's scores (B, 1) where `scores`; fp32."""
        s = super().forward(x, alpha)
        return s if scores else F.softplus(-s).squeeze(1)
