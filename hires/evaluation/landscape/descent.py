"""Minima of an energy: many descents at once."""

import torch
from torch import Tensor

from hires.errors import HiresError
from hires.evaluation.landscape.field import Field

DECREASE = 1e-4  # share of the promised decrease that a step must bring (Armijo)
SHORTEST, LONGEST = 1e-10, 1e10  # bounds of the spectral step
GROWTH = 4  # times the last step's length over its slope: the most that the next one's is


@torch.no_grad()
def descend(field: Field, starts: Tensor, steps: int, tolerance: float, patience: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    """From `starts` (B, d) down to minima: points (B, d), energies (B,), and the steps that each took (B,).

    Spectral projected gradient (Birgin, Martinez, Raydan, SIAM J. Optim. 10, 2000): a gradient method whose step length comes from the
    last two slopes; here every step must go down, so that a descent does not leave the valley that it is in. It ends after `steps`, or
    when `patience` of them lowered the energy by less than `tolerance` together. The rows do not see each other. Raises HiresError
    where the energy is not finite at a start; a step to such a place is not taken.
    """
    ends = field.project(starts.clone())
    lowest, g = field.slope(ends)
    if not (torch.isfinite(lowest).all() and torch.isfinite(g).all()):
        raise HiresError("landscape: the energy or its slope is not finite at a start; wanted finite ones everywhere")
    taken = torch.zeros(len(starts), dtype=torch.int64, device=starts.device)
    rows = torch.arange(len(starts), device=starts.device)  # those still on their way
    x, u, since, mark = ends.clone(), lowest.clone(), taken.clone(), lowest.clone()
    length = 1 / (field.project(x - g) - x).abs().amax(1).clamp_min(SHORTEST)
    share = torch.ones_like(u)
    for _ in range(steps):
        way = field.project(x - length[:, None] * g) - x
        y = field.project(x + share[:, None] * way)  # the region is convex: only rounding would leave it
        u_y, g_y = field.slope(y)
        good = u_y <= u + DECREASE * share * (way * g).sum(1)  # False where it is not a number
        s = y - x
        curvature = (s * (g_y - g)).sum(1)
        spectral = torch.where(curvature > 0, (s * s).sum(1) / curvature.clamp_min(SHORTEST), LONGEST)
        # never far beyond the last: a flat slope seen far away says nothing about what lies between
        spectral = torch.minimum(spectral, GROWTH * share * length).clamp_min(SHORTEST)
        length = torch.where(good, spectral, length)
        share = torch.where(good, torch.ones_like(share), share / 4)
        x, g, u = torch.where(good[:, None], y, x), torch.where(good[:, None], g_y, g), torch.where(good, u_y, u)
        taken[rows] += 1
        gained = mark - u > tolerance
        mark, since = torch.where(gained, u, mark), torch.where(gained, 0, since + 1)
        ends[rows], lowest[rows] = x, u
        stay = since < patience
        if not stay.all():
            rows, x, u, g, since, mark, length, share = (a[stay] for a in (rows, x, u, g, since, mark, length, share))
            if not len(rows):
                break
    return ends, lowest, taken
