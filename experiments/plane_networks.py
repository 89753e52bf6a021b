"""The players of the plane: perceptrons in place of the growing networks, and plain Adam in place of DeepSpeed's engines.

A point of the plane is an image (2, 1, 1): two channels, one pixel. What an objective asks of a network or of a player is the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
import copy
from itertools import pairwise
import math

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from hires.networks.expert_energy import binary_entropy, probabilities
from hires.networks.transition import POINT

HIDDEN = 64
SCALE = 4.0  # of points before a first layer: structure of some hundredths is far below one unit
BOUND = 8.0  # in units of ln 2, of the bounded triangle's energy: as hires.networks.build has it


def layers(inputs: int, outputs: int, activation: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """Three hidden layers, their weights scaled so that a signal keeps its size."""
    net = nn.Sequential()
    for i, (a, b) in enumerate(pairwise([inputs, HIDDEN, HIDDEN, HIDDEN, outputs])):
        linear = nn.Linear(a, b)
        nn.init.normal_(linear.weight, std=math.sqrt((2 if i < 3 else 1) / a))
        net.extend([linear, activation()] if i < 3 else [linear])
    return net


class Generator(nn.Module):
    """z (B, d) -> points (B, 2, 1, 1); with `erf`, of codes squashed as VCD's decoder does."""

    def __init__(self, latent: int, erf: bool = False):
        super().__init__()
        self.layers, self.erf = layers(latent, 2, nn.LeakyReLU), erf

    def forward(self, z: Tensor, alpha: float = 1.0) -> Tensor:
        return self.layers(torch.erf(z / math.sqrt(2)) if self.erf else z)[:, :, None, None]


class Inference(nn.Module):
    """Points (B, 2, 1, 1) -> mu and logvar (B, d); with `point`, a code without spread as VCD's encoder gives."""

    def __init__(self, latent: int, point: bool = False):
        super().__init__()
        self.layers, self.point = layers(2, latent if point else 2 * latent), point

    def forward(self, x: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
        y = self.layers(SCALE * x.flatten(1))
        return (y, torch.full_like(y, POINT)) if self.point else y.chunk(2, 1)


class Energy(nn.Module):
    """Points (B, 2, 1, 1) -> energies (B,), free."""

    def __init__(self, scores: int = 1, inputs: int = 2):
        super().__init__()
        self.layers = layers(inputs, scores)

    def forward(self, x: Tensor, alpha: float = 1.0) -> Tensor:
        return self.layers(SCALE * x.flatten(1)).squeeze(1)


class PairEnergy(Energy):
    """Points and latents (B, d) -> energies (B,)."""

    def __init__(self, latent: int):
        super().__init__(inputs=2 + latent)

    def forward(self, x: Tensor, z: Tensor, alpha: float = 1.0) -> Tensor:
        return self.layers(torch.cat([SCALE * x.flatten(1), z], 1)).squeeze(1)


class ExpertEnergy(Energy):
    """K experts' energy, in [0, scale ln 2], or their scores (B, K)."""

    def __init__(self, experts: int, scale: float = 1.0):
        super().__init__(experts)
        self.scale = scale

    def forward(self, x: Tensor, alpha: float = 1.0, scores: bool = False) -> Tensor:
        s = self.layers(SCALE * x.flatten(1))
        return s if scores else self.scale * binary_entropy(probabilities(s)).mean(1)


class GanEnergy(Energy):
    """-ln D, or the one unit's scores (B, 1)."""

    def forward(self, x: Tensor, alpha: float = 1.0, scores: bool = False) -> Tensor:
        s = self.layers(SCALE * x.flatten(1))
        return s if scores else F.softplus(-s).squeeze(1)


def network(config, player: str, latent: int) -> nn.Module:
    """The perceptron of a player of an objective's configuration."""
    vcd = config.name == "vcd"
    if player == "generator":
        return Generator(latent, erf=vcd)
    if player == "inference":
        return Inference(latent, point=vcd)
    if config.name == "latent_ebm":
        return PairEnergy(latent)
    if config.name == "gan":
        return GanEnergy()
    if config.name in ("vgan", "vcd"):
        return ExpertEnergy(config.experts)
    if config.name == "divergence_triangle" and config.energy == "experts":
        return ExpertEnergy(128, BOUND)
    return Energy()  # f-EBM's H too


class Learner:
    """A player without an engine: a network, its Adam and its moving average."""

    def __init__(self, network: nn.Module, betas: tuple[float, float]):
        self.network, self.average = network, copy.deepcopy(network).requires_grad_(False)
        self.adam = torch.optim.Adam(network.parameters(), lr=0.0, betas=betas, fused=True)

    def __call__(self, *args):
        return self.network(*args)

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """Gradients of all backward passes of the block add up: here they always do, until the step."""
        yield

    def backward(self, loss: Tensor) -> None:
        """Back-propagate a scalar loss."""
        loss.backward()

    def step(self, lr: float, ema_decay: float) -> None:
        """One Adam step, and the moving average's."""
        self.adam.param_groups[0]["lr"] = lr
        self.adam.step()
        self.adam.zero_grad()
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - ema_decay)
