"""Pictures put right by an energy: noise lowered, or unknown pixels filled in, by Langevin steps from the corrupted picture (P4)."""

from dataclasses import dataclass
import math

import torch
from torch import Tensor

from hires.bundle.hires_bundle import Bundle, pictures_at_once
from hires.errors import HiresError
from hires.ground.noise import generator
from hires.media.pictures import read_picture
from hires.objectives.langevin import step
from hires.sampling.refining import LangevinConfig, settings

MASKS = "center, left, bottom, random:SHARE such as random:0.5, or a picture, white where pixels are unknown"


@dataclass
class Steps:
    """Langevin steps on pictures: x <- clamp(x - clamp(size dU/dx, -reach, reach) + noise e, -1, 1), e ~ N(0, I)."""

    count: int
    size: float
    noise: float
    reach: float


def steps_of(bundle: Bundle, config: LangevinConfig) -> Steps:
    """The bundle's own steps, those of its training's chains or of `hires sample langevin.*`, where `config` does not say else.

    `config.step_size` is s of size = s^2 / 2, `config.noise` is in units of s.
    """
    chains = bundle.config.get("chains")
    if chains:
        s = config.step_size or bundle.resolution * math.sqrt(2 * chains["step_size"])
        noise, reach = chains["noise"] if config.noise is None else config.noise * s, chains["reach"]
    else:
        s, times = settings(config, bundle.resolution)
        noise, reach = times * s, math.inf
    return Steps(config.steps, s**2 / 2, noise, reach)


def unknown_pixels(mask: str, resolution: int, count: int, seed: int) -> Tensor:
    """Which pixels of `count` pictures are unknown, bool (count, 1, r, r); of `random` others in each picture, decided by the seed.

    Raises HiresError for an unknown mask, or one that leaves no pixel unknown.
    """
    r = resolution
    found = torch.zeros(count, 1, r, r, dtype=torch.bool)
    kind, colon, share = mask.partition(":")
    if mask == "center":
        found[:, :, r // 4 : r - r // 4, r // 4 : r - r // 4] = True
    elif mask == "left":
        found[..., : r // 2] = True
    elif mask == "bottom":
        found[:, :, r // 2 :] = True
    elif kind == "random" and colon:
        try:
            part = float(share)
        except ValueError:
            part = math.nan
        if not 0 < part <= 1:
            raise HiresError(f"mask={mask}: wanted a share above 0, at most 1, such as random:0.5")
        for i in range(count):
            found[i] = torch.rand(1, r, r, generator=generator(seed, "mask", i)) < part
    elif "." in mask or "/" in mask:
        found[:] = read_picture(mask, r, 1, f"mask={mask}") > 0
    else:
        raise HiresError(f"mask={mask}: wanted {MASKS}")
    if not found.flatten(1).any(1).all():
        raise HiresError(f"mask={mask}: no pixel is unknown in it at {r}x{r}")
    return found


def corrupt(x: Tensor, noise: float, unknown: Tensor | None, seed: int) -> Tensor:
    """Pictures (N, C, r, r) in [-1, 1] with N(0, noise^2) added and clamped, or with uniform noise in place of unknown pixels."""
    dice = [generator(seed, "corruption", i) for i in range(len(x))]
    if unknown is None:
        e = torch.stack([torch.randn(x.shape[1:], generator=die) for die in dice])
        return (x + noise * e).clamp(-1, 1)
    return torch.where(unknown, torch.stack([torch.rand(x.shape[1:], generator=die) for die in dice]) * 2 - 1, x)


@torch.no_grad()
def restore(bundle: Bundle, corrupted: Tensor, steps: Steps, unknown: Tensor | None, seed: int) -> Tensor:
    """Where Langevin steps lead from corrupted pictures (N, C, r, r), on the CPU; with `unknown` the other pixels stay as they are.

    The noise of picture i is a function of (seed, i, step). Raises HiresError where the energy's gradient stops being a number.
    """
    parts, at_once = [], pictures_at_once(bundle.resolution)
    for first in range(0, len(corrupted), at_once):
        x = known = corrupted[first : first + at_once].to(bundle.device)
        free = None if unknown is None else unknown[first : first + at_once].to(bundle.device)
        dice = [generator(seed, "restoring", first + i) for i in range(len(x))]
        for k in range(steps.count):
            kick = None
            if steps.noise:
                kick = steps.noise * torch.stack([torch.randn(x.shape[1:], generator=die) for die in dice]).to(x.device)
            x, slope = step(bundle.energy, x, steps.size, kick, steps.reach, bound=1.0)
            if free is not None:
                x = torch.where(free, x, known)
            if not torch.isfinite(slope).all():
                raise HiresError(f"langevin: not finite after {k + 1} steps; wanted a smaller langevin.step_size")
        parts.append(x.cpu())
    return torch.cat(parts)


def errors(x: Tensor, found: Tensor, unknown: Tensor | None) -> Tensor:
    """Each picture's mean squared difference on [-1, 1], over the unknown pixels where there are any: (N,), float64."""
    square = (x - found).double().square()
    weight = torch.ones_like(square) if unknown is None else unknown.expand_as(square).double()
    return (square * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(4 / mse): pictures on [-1, 1] have a range of 2."""
    return 10 * torch.log10(4 / mse)


def guess(corrupted: Tensor, unknown: Tensor) -> Tensor:
    """Pictures whose unknown pixels have the mean colour of the known ones (0 where none is known): what to beat."""
    known = (~unknown).expand_as(corrupted).float()
    mean = (corrupted * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(unknown, mean.expand_as(corrupted), corrupted)
