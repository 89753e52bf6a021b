"""Attraction-diffusion: random walks on the energy that a magnet pulls from one minimum to another."""

import torch
from torch import Tensor

from hires.evaluation.landscape.field import Field

LONGER, SHORTER = 1.1, 0.87  # of the step after a move taken or refused: keeps about 57 of 100, the best rate of Langevin proposals
FIRST = 0.02  # first step, as a share of the distance to the target
NEARER = 1e-3  # a walk is on its way while the distance to its target shrinks by this share of the whole


@torch.no_grad()
def attract(
    field: Field,
    starts: Tensor,
    targets: Tensor,
    temperature: Tensor,
    pull: Tensor,
    noise: list[torch.Generator],
    steps: int,
    reach: float = 0.1,
    patience: int = 40,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Walks from `starts` to `targets` (B, d): whether each arrived (B,), the highest U on it (B,), and its way (n, d).

    Each is at density exp(-U(x) / T - pull |x - target|), `temperature` T and `pull` (B,). A walk arrives within `reach` of the distance
    that it began with; it is given up after `steps`, or `patience` of them without coming nearer. Langevin proposals under Metropolis's
    rule (MALA), put back into the field's region where they leave it; steps adapt. The way holds the points that were nearer to the
    target than all before, with the target behind the last one where it arrived. `noise`: a CPU generator for each walk.
    """
    whole = _norm(targets - starts).clamp_min(1e-12)
    rows = torch.arange(len(starts), device=starts.device)
    nearest, since = whole.clone(), torch.zeros_like(rows)
    ways, arrived = [[x] for x in starts], torch.zeros(len(starts), dtype=torch.bool, device=starts.device)
    x, goal, length = starts.clone(), targets, FIRST * whole
    u, g = field.slope(x)
    top = u.clone()
    v, h = _pulled(x, u, g, goal, temperature, pull)
    for _ in range(steps):
        kick = torch.stack([torch.randn(x.shape[1], generator=noise[i], dtype=x.dtype) for i in rows.tolist()]).to(x.device)
        chance = torch.stack([torch.rand((), generator=noise[i], dtype=x.dtype) for i in rows.tolist()]).to(x.device)
        drift = length[:, None] ** 2 / 2
        y = field.project(x - drift * h + length[:, None] * kick)
        u_y, g_y = field.slope(y)
        v_y, h_y = _pulled(y, u_y, g_y, goal, temperature[rows], pull[rows])
        there, back = (y - x + drift * h).square().sum(1), (x - y + drift * h_y).square().sum(1)
        good = chance.log() < v - v_y + (there - back) / (2 * length**2)  # False where it is not a number
        x, u, v = torch.where(good[:, None], y, x), torch.where(good, u_y, u), torch.where(good, v_y, v)
        h = torch.where(good[:, None], h_y, h)
        top[rows] = torch.maximum(top[rows], u)
        length = length * torch.where(good, LONGER, SHORTER)
        distance = _norm(goal - x)
        come_nearer = distance < nearest[rows] - NEARER * whole[rows]
        for k in come_nearer.nonzero().flatten().tolist():
            ways[int(rows[k])].append(x[k])
        nearest[rows] = torch.where(come_nearer, distance, nearest[rows])
        since = torch.where(come_nearer, 0, since + 1)
        arrived[rows] = distance <= reach * whole[rows]
        stay = ~arrived[rows] & (since < patience)
        if not stay.all():
            rows, x, u, v, h, goal, length, since = (a[stay] for a in (rows, x, u, v, h, goal, length, since))
            if not len(rows):
                break
    return arrived, top, [torch.stack([*way, targets[i]] if arrived[i] else way) for i, way in enumerate(ways)]


def _pulled(x: Tensor, u: Tensor, g: Tensor, goal: Tensor, temperature: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """U / T + pull |x - goal| and its slope."""
    away = x - goal
    distance = _norm(away)
    towards = away / distance.clamp_min(1e-12)[:, None]
    return u / temperature + pull * distance, g / temperature[:, None] + pull[:, None] * towards


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=1)
