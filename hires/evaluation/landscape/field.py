"""An energy of vectors with the region in which it is searched."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def everywhere(x: Tensor) -> Tensor:
    """No bound: every point is its own nearest point."""
    return x


def in_ball(radius: float) -> Callable[[Tensor], Tensor]:
    """The nearest point with |x| <= radius, of points (..., d)."""
    return lambda x: x * (radius / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)


def in_box(bound: float) -> Callable[[Tensor], Tensor]:
    """The nearest point with coordinates in [-bound, bound]."""
    return lambda x: x.clamp(-bound, bound)


@dataclass(frozen=True)
class Field:
    """U: (B, d) -> (B,), differentiable, on a convex region; `project` gives a point's nearest point there.

    Points may have any leading shape. At most `at_once` of them go into one call of the energy.
    """

    energy: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor] = everywhere
    at_once: int = 1024

    @torch.no_grad()
    def value(self, x: Tensor) -> Tensor:
        """U of points (..., d) -> (...)."""
        return torch.cat([self.energy(part) for part in x.flatten(0, -2).split(self.at_once)]).view(x.shape[:-1])

    def slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """U and dU/dx of points (..., d) -> (...), (..., d)."""
        values, slopes = [], []
        for part in x.detach().flatten(0, -2).split(self.at_once):
            part = part.clone().requires_grad_()
            with torch.enable_grad():
                u = self.energy(part)
                slopes.append(torch.autograd.grad(u.sum(), part)[0])
            values.append(u.detach())
        return torch.cat(values).view(x.shape[:-1]), torch.cat(slopes).view(x.shape)
