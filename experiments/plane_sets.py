"""Three sets in the square [-1, 1]^2 whose densities are known, and what is measured of samples and energies on a grid over it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
import math

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize_scalar
import torch
from torch import Tensor

CELLS = 128  # a side of the grid
WIDTH = 2 / CELLS
BLUR = 0.03  # standard deviation of the kernel of density estimates
UNIFORM = 0.01  # share of the uniform density mixed into both sides of a comparison of samples: a lost mode costs a finite number
HELD = 0.25  # a piece is held where it gets at least this part of its share of the samples, strays not counted


@dataclass(frozen=True)
class PlaneSet:
    """A density on the square, made of pieces of equal mass."""

    sample: Callable[[int, torch.Generator], Tensor]  # (n, generator) -> (n, 2)
    log_density: Callable[[Tensor], Tensor]  # (n, 2) -> (n,)
    piece: Callable[[Tensor], Tensor]  # (n, 2) -> (n,): the piece that a point is nearest to
    pieces: int


def gaussians(centres: Tensor, deviation: float, pieces: int) -> PlaneSet:
    """Equal Gaussians around centres (M, 2), each stretch of M / pieces of them a piece."""

    def sample(n: int, dice: torch.Generator) -> Tensor:
        return centres[torch.randint(len(centres), (n,), generator=dice)] + deviation * torch.randn(n, 2, generator=dice)

    def log_density(x: Tensor) -> Tensor:
        exponent = -(torch.cdist(x, centres) / deviation).square() / 2
        return torch.logsumexp(exponent, 1) - math.log(len(centres) * 2 * math.pi * deviation**2)

    return PlaneSet(sample, log_density, lambda x: torch.cdist(x, centres).argmin(1) * pieces // len(centres), pieces)


def eight_gaussians() -> PlaneSet:
    """Eight Gaussians of standard deviation 0.05 on a circle of radius 0.7; each is a piece."""
    angle = torch.arange(8) * math.pi / 4
    return gaussians(0.7 * torch.stack([angle.cos(), angle.sin()], 1), 0.05, 8)


def two_spirals() -> PlaneSet:
    """Two arms of one and a half turns, r = 0.85 t at angle 3 pi t for t from 0.15 to 1, uniform along their length, with normal noise of
    0.03; 160 Gaussians an arm, less than one deviation apart, stand for the curve. A piece is an eighth of an arm's length.
    """
    t = torch.linspace(0.15, 1, 20_001, dtype=torch.float64)
    length = torch.cat([torch.zeros(1), (t.diff() * (1 + (3 * math.pi * t[1:]).square()).sqrt()).cumsum(0)])
    middle = length[-1] * (torch.arange(160) + 0.5) / 160
    at = t[torch.searchsorted(length, middle)]
    arm = (0.85 * at[:, None] * torch.stack([(3 * math.pi * at).cos(), (3 * math.pi * at).sin()], 1)).float()
    return gaussians(torch.cat([arm, -arm]), 0.03, 16)


def pinwheel() -> PlaneSet:
    """Five arms: radius N(0.55, 0.15^2) cut to [0.1, 0.95], angle N(2.5 r + 72 degrees k, 0.12^2) for arm k, each a piece."""
    centre, deviation, low, high, twist, spread = 0.55, 0.15, 0.1, 0.95, 2.5, 0.12
    radius = torch.distributions.Normal(centre, deviation)
    inside = radius.cdf(torch.tensor(high)) - radius.cdf(torch.tensor(low))
    arms = torch.arange(5) * 2 * math.pi / 5

    def sample(n: int, dice: torch.Generator) -> Tensor:
        share = radius.cdf(torch.tensor(low)) + inside * torch.rand(n, generator=dice)
        r = radius.icdf(share)
        angle = twist * r + arms[torch.randint(5, (n,), generator=dice)] + spread * torch.randn(n, generator=dice)
        return r[:, None] * torch.stack([angle.cos(), angle.sin()], 1)

    def off(x: Tensor) -> tuple[Tensor, Tensor]:
        """Radii (n,) and angles from the middle of each arm (n, 5), in (-pi, pi]."""
        r = x.norm(dim=1)
        angle = torch.atan2(x[:, 1], x[:, 0])[:, None] - twist * r[:, None] - arms
        return r, torch.remainder(angle + math.pi, 2 * math.pi) - math.pi

    def log_density(x: Tensor) -> Tensor:
        r, angle = off(x)
        across = torch.logsumexp(-(angle / spread).square() / 2, 1) - math.log(5 * spread * math.sqrt(2 * math.pi))
        value = radius.log_prob(r) - inside.log() + across - r.log()  # r: from polar to plane
        return torch.where((r >= low) & (r <= high), value, -math.inf)

    return PlaneSet(sample, log_density, lambda x: off(x)[1].abs().argmin(1), 5)


SETS = {"eight_gaussians": eight_gaussians(), "pinwheel": pinwheel(), "two_spirals": two_spirals()}


def grid() -> Tensor:
    """The middles of the cells (CELLS^2, 2), the first coordinate the slower one."""
    at = (torch.arange(CELLS) + 0.5) * WIDTH - 1
    return torch.cartesian_prod(at, at)


def probabilities(log_density: Tensor) -> np.ndarray:
    """Masses of the cells (CELLS, CELLS), adding up to 1, of log-densities in their middles up to a constant."""
    return torch.softmax(log_density.double(), 0).view(CELLS, CELLS).numpy()


@cache
def masses(truth: PlaneSet) -> np.ndarray:
    """The truth's own (CELLS, CELLS)."""
    return probabilities(truth.log_density(grid()))


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) in nats of masses on the grid; cells without p count nothing."""
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


def blurred(p: np.ndarray) -> np.ndarray:
    """Masses after a Gaussian kernel of BLUR, with a share of the uniform ones."""
    blurry = gaussian_filter(p, BLUR / WIDTH, mode="constant")
    return (1 - UNIFORM) * blurry / blurry.sum() + UNIFORM / p.size


def histogram(x: Tensor) -> np.ndarray:
    """Shares of points (n, 2) in the cells, those beyond the square in its outermost."""
    counts, *_ = np.histogram2d(*x.clamp(-1, 1).double().numpy().T, bins=CELLS, range=[[-1, 1], [-1, 1]])
    return counts / len(x)


def samples_kl(truth: PlaneSet, x: Tensor) -> float:
    """KL(truth || samples), both blurred by the same kernel: it is 0 for infinitely many true samples."""
    return kl(blurred(masses(truth)), blurred(histogram(x)))


def energy_kl(truth: PlaneSet, energies: Tensor) -> tuple[float, float, float]:
    """KL(truth || exp(-b U) / Z) over the square for b = 1, and for the b that makes it least, and that b; of U on the grid (CELLS^2,)."""
    p = masses(truth)

    def at(log_b: float) -> float:
        return kl(p, np.maximum(probabilities(-math.exp(log_b) * energies), 1e-300))

    best = minimize_scalar(at, bounds=(math.log(1e-3), math.log(1e3)), method="bounded")
    return at(0.0), best.fun, math.exp(best.x)


def shares(truth: PlaneSet, x: Tensor) -> tuple[Tensor, float]:
    """Samples of each piece over their fair number (pieces,), those outside left out, and the share of all that lies outside.

    Outside is where the density is below that of the densest 99 % of the truth.
    """
    p = np.sort(masses(truth).ravel())[::-1]
    least = math.log(p[np.searchsorted(p.cumsum(), 0.99)] / WIDTH**2)
    inside = truth.log_density(x) >= least
    counts = torch.bincount(truth.piece(x[inside]), minlength=truth.pieces)
    return counts * truth.pieces / len(x), 1 - inside.float().mean().item()


def held(truth: PlaneSet, x: Tensor) -> int:
    """The number of pieces that samples hold."""
    return int((shares(truth, x)[0] >= HELD).sum())
