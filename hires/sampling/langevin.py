"""Refinement of samples by the energy: Langevin steps on pictures, or on the latents behind them."""

from collections.abc import Callable
from dataclasses import dataclass
import math

import torch
from torch import Tensor

from hires.errors import HiresError
from hires.training.noise import generator

SPACES = ("latents", "pictures")


@dataclass
class LangevinConfig:
    """Steps of Langevin dynamics on the energy; docs/sampling.md shows what they do."""

    steps: int = 0  # 0 = none
    step_size: float = 0.1  # s
    noise: float = 1.0  # times s; 1 samples at temperature 1, 0 goes straight downhill
    space: str = "latents"  # latents | pictures


def check(config: LangevinConfig) -> None:
    """Raise HiresError for a value that means nothing."""
    if config.steps < 0 or not 0 < config.step_size < math.inf or not 0 <= config.noise < math.inf:
        found = f"langevin.steps={config.steps} langevin.step_size={config.step_size} langevin.noise={config.noise}"
        raise HiresError(f"{found}: wanted steps and noise from 0 up, step_size above 0")
    if config.space not in SPACES:
        raise HiresError(f"langevin.space={config.space}: wanted {' or '.join(SPACES)}")


def langevin(
    energy: Callable[[Tensor], Tensor], start: Tensor, seeds: list[int], config: LangevinConfig, bound: float = math.inf
) -> Tensor:
    """`config.steps` times x <- x - (s^2 / 2) dU/dx + noise s e, e ~ N(0, I), from `start` (B, ...), then clamped to [-bound, bound].

    `energy` maps (B, ...) to (B,). The noise of row i is a function of (seeds[i], step) alone, so a seed ends at the same point in any
    batch, up to rounding. Raises HiresError where the energy's gradient stops being a number.
    """
    x, s = start, config.step_size
    for step in range(config.steps):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(energy(x).sum(), x)
        x = x.detach() - s**2 / 2 * slope
        if config.noise:
            e = [torch.randn(x.shape[1:], generator=generator(seed, "langevin", step)) for seed in seeds]
            x = x + config.noise * s * torch.stack(e).to(x.device)
        if not torch.isfinite(x).all():
            raise HiresError(f"langevin: no finite number after {step + 1} steps; wanted a smaller langevin.step_size than {s:g}")
        x = x.clamp(-bound, bound)
    return x.detach()
