"""Points between two or more latents, by weights."""

import torch
from torch import Tensor

from hires.errors import HiresError

NEAR = 1e-6  # two directions closer to opposite than that have no one shortest way between them


def mix(points: Tensor, weights: Tensor, path: str = "sphere") -> Tensor:
    """The point (d,) among points (K, d) that non-negative weights (K,) name; they count in proportion.

    `line` is the weighted mean. `sphere` is the weighted mean on the sphere, the direction u with sum_i w_i log_u(u_i) = 0 (for two
    points this is slerp), at the weighted mean of the norms; it takes the weighted mean where points are opposite, zero or
    balance each other. Raises HiresError for another path.
    """
    if path not in ("sphere", "line"):
        raise HiresError(f"path={path}: wanted sphere or line")
    points64 = points.double()
    weights = weights.to(points64) / weights.sum()
    straight = weights @ points64
    norms = points64.norm(dim=1)
    units = points64 / norms.clamp_min(1e-12)[:, None]
    if path == "line" or norms.min() < 1e-12 or (units @ units.T).min() < NEAR - 1:
        return straight.to(points)
    direction = weights @ units
    if direction.norm() < NEAR:  # they balance: no direction is nearer to them than its opposite
        return straight.to(points)
    for _ in range(100):
        direction = direction / direction.norm()
        off = units - (units @ direction)[:, None] * direction  # what of each point is not along the direction: |off| is the sine
        sine = off.norm(dim=1)
        angle = torch.atan2(sine, units @ direction)
        step = weights @ (off * (angle / sine.clamp_min(1e-12))[:, None])
        if step.norm() < 1e-9:
            break
        direction = step.norm().cos() * direction + step.norm().sin() * step / step.norm()
    return (weights @ norms * direction / direction.norm()).to(points)
