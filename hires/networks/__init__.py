"""The networks: growing ones for 4x4 ... 1024x1024 and the papers' fixed-size ones. They know torch alone."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn
import torch.nn.functional as F
from torch.nn.utils.parametrize import is_parametrized

from hires.networks import dcgan32, dcgan64, p2, p3, p4
from hires.networks.energy import Energy
from hires.networks.expert_energy import ExpertEnergy
from hires.networks.generator import Generator
from hires.networks.growing import EqualizedConv2d, EqualizedLinear, NetworkConfig
from hires.networks.inference import Inference

__all__ = ["FIXED", "Energy", "Generator", "Inference", "NetworkConfig", "build", "initialise"]

# network.kind -> the papers' networks of fixed sizes: a module with RESOLUTIONS and what it has of Generator, Energy and Inference
FIXED: dict[str, ModuleType] = {"dcgan32": dcgan32, "dcgan64": dcgan64, "p2": p2, "p3": p3, "p4": p4}


def build(config: NetworkConfig, player: str, resolution: int, fading: bool = False, energy_form: str = "identity") -> nn.Module:
    """One network of a triangle, parameters not yet set; `player` is generator, energy or inference."""
    family: Any = FIXED.get(config.kind)
    if player == "generator":
        return (family.Generator if family else Generator)(config, resolution, fading)
    if player == "energy":
        if energy_form == "experts":
            return ExpertEnergy(config, resolution, fading, scale=8.0)  # up to 8 ln 2 = 5.5, about where lambda_u = 0.1 holds a free one
        return (family.Energy if family else Energy)(config, resolution, fading, energy_form)
    if player == "inference":
        return (family.Inference if family else Inference)(config, resolution, fading)
    raise ValueError(f"player={player!r}: wanted generator, energy or inference")


@torch.no_grad()
def initialise(network: nn.Module, generator: Callable[[str], torch.Generator]) -> None:
    """Set every parameter from a random stream of its own, `generator(name)`, so a level starts the same whenever it is added.

    Equalised layers N(0, 1) (ProGAN); plain convolutions N(0, 0.02) and gains of norms N(1, 0.02) (P1); biases 0. Plain layers under
    spectral normalisation, biases too, as torch starts them, uniform within 1 / sqrt(fan_in): so does P2's code, whose other start misses
    them. P3's and P4's networks as hires.networks.p3 and p4 have it.
    """
    for prefix, module in network.named_modules():
        if "parametrizations" in prefix:
            continue  # a spectrally normalised weight is set through the layer that holds it
        equalised, bounded = isinstance(module, EqualizedConv2d | EqualizedLinear), is_parametrized(module)
        for name, parameter in module.named_parameters(prefix, recurse=equalised or bounded):
            if isinstance(network, p4.Energy):
                p4.start(name, parameter, generator(name))
                continue
            if bounded and not equalised:
                limit = module.parametrizations.weight.original[0].numel() ** -0.5
                parameter.copy_((torch.rand(parameter.shape, generator=generator(name)) * 2 - 1) * limit)
                continue
            if isinstance(network, p3.Network):
                p3.start(name, parameter, generator(name))
                continue
            if name.endswith("bias"):
                parameter.zero_()
                continue
            mean = 1.0 if isinstance(module, nn.BatchNorm2d | nn.GroupNorm) else 0.0
            std = 1.0 if equalised else 0.02
            parameter.copy_(torch.randn(parameter.shape, generator=generator(name)) * std + mean)
        if bounded:
            _start_power_iteration(module, lambda name, prefix=prefix: generator(f"{prefix}.{name}"))


def _start_power_iteration(module: nn.Module, generator: Callable[[str], torch.Generator]) -> None:
    """Singular vectors of a spectrally normalised weight, from streams of their own: torch drew them from the global generator."""
    holder = module.parametrizations.weight
    matrix, norm = holder.original.flatten(1), holder[0]
    norm._v.copy_(F.normalize(torch.randn(norm._v.shape, generator=generator("v")), dim=0))
    for _ in range(15):
        norm._u.copy_(F.normalize(matrix @ norm._v, dim=0))
        norm._v.copy_(F.normalize(matrix.T @ norm._u, dim=0))
