"""Refinement of samples by the energy: Langevin steps on pictures, or on the latents behind them."""

from collections.abc import Callable
from dataclasses import dataclass
import math

import torch
from torch import Tensor

from hires.errors import HiresError
from hires.ground.noise import generator
from hires.ground.ranges import check_ranges, setting
from hires.objectives.langevin import step

SPACES = ("pictures", "latents")


@dataclass
class LangevinConfig:
    """Steps of Langevin dynamics on the energy; docs/records/sampling.md shows what they do."""

    steps: int = setting(0, at_least=0)  # 0 = none
    step_size: float | None = setting(None, above=0, below=math.inf)  # s; null: 0.02 r on pictures of r x r pixels, 0.2 on latents
    # times s: 1 samples at temperature 1, 0 goes straight downhill; null: 0 on pictures, 1 on latents
    noise: float | None = setting(None, at_least=0, below=math.inf)
    space: str = setting("pictures", among=SPACES)  # pictures | latents
    weight: float | None = setting(None, above=0, below=math.inf)  # of U against |w|^2 / 2 on latents; null: as it trained the generator


def check(config: LangevinConfig) -> None:
    """Raise HiresError for a value that means nothing."""
    check_ranges(config, "langevin.")
    if config.weight is not None and config.space != "latents":
        raise HiresError(f"langevin.weight={config.weight:g} with langevin.space={config.space}: wanted langevin.space=latents")


def settings(config: LangevinConfig, resolution: int) -> tuple[float, float]:
    """(s, noise): what the configuration says, or what was measured to lower energies without a visible grain.

    On pictures s grows with their side: training keeps |dU/dx| about proportional to 1 / r (objective.r1), while distances between
    pictures are proportional to r.
    """
    pictures = config.space == "pictures"
    s = config.step_size if config.step_size is not None else 0.02 * resolution if pictures else 0.2
    return s, config.noise if config.noise is not None else 0.0 if pictures else 1.0


def langevin(
    energy: Callable[[Tensor], Tensor], start: Tensor, seeds: list[int], steps: int, s: float, noise: float, bound: float = math.inf
) -> Tensor:
    """`steps` times x <- x - (s^2 / 2) dU/dx + noise s e, e ~ N(0, I), from `start` (B, ...), then clamped to [-bound, bound].

    `energy` maps (B, ...) to (B,). The noise of row i is a function of (seeds[i], step) alone, so a seed ends at the same point in any
    batch, up to rounding. Raises HiresError where the energy's gradient stops being a number.
    """
    x = start
    for i in range(steps):
        kick = None
        if noise:
            e = [torch.randn(x.shape[1:], generator=generator(seed, "langevin", i)) for seed in seeds]
            kick = noise * s * torch.stack(e).to(x.device)
        x, slope = step(energy, x, s**2 / 2, kick, bound=bound)
        if not (torch.isfinite(slope).all() and torch.isfinite(x).all()):
            raise HiresError(f"langevin: not finite after {i + 1} steps; wanted a smaller langevin.step_size than {s:g}")
    return x
