"""Which samples a person gets to see: nearer to the prior's mean, or of the lowest energy."""

import math

import torch
from torch import Tensor

from hires.errors import HiresError


def truncate(z: Tensor, psi: float) -> Tensor:
    """Latents psi z: draws from N(0, psi^2 I) where z ~ N(0, I).

    This is the prior at temperature psi^2: samples come from a thinner shell of norm psi sqrt(d), nearer to the mean picture G(0), more
    alike, and, since the generator was trained at norms about sqrt(d), less and less like what it has learned as psi falls.
    """
    return psi * z


def check_top(top_by: str, keep: float) -> None:
    """Raise HiresError for a share without a criterion."""
    if keep < 1 and not top_by:
        raise HiresError(f"keep={keep}: wanted top_by=energy with it")


def lowest(energies: Tensor, keep: float) -> list[int]:
    """Indices of the round(keep N), at least one, lowest of `energies` (N,), lowest first; equal ones stay in their order.

    Raises HiresError where an energy is not a number, which has no place in an order.
    """
    if not torch.isfinite(energies).all():
        raise HiresError(f"{int((~torch.isfinite(energies)).sum())} of {len(energies)} energies are not finite: they cannot be sorted")
    count = max(1, math.floor(keep * len(energies) + 0.5))
    return torch.argsort(energies, stable=True)[:count].tolist()
