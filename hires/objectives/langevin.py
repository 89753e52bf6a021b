"""One Langevin step: what a system's negatives in training and the refinement of finished samples share."""

from collections.abc import Callable
import math

import torch
from torch import Tensor


def step(
    energy: Callable[[Tensor], Tensor], x: Tensor, size: float, kick: Tensor | None, reach: float = math.inf, bound: float = math.inf
) -> tuple[Tensor, Tensor]:
    """x <- x - clamp(size dU/dx, -reach, reach) + kick, clamped to [-bound, bound]; returns it and dU/dx, both (B, ...), without a graph.

    `energy` maps (B, ...) to (B,), each element a function of its own row. With size = s^2 / 2 and kick = s e, e ~ N(0, I), this samples
    exp(-U) as s goes to 0. Waits for no device.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(energy(x).sum(), x)
    x = x.detach() - (size * slope).clamp(-reach, reach)
    return (x if kick is None else x + kick).clamp(-bound, bound), slope
