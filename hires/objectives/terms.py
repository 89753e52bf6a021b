"""Terms that the systems share: means over batch and dimensions, never sums, so a weight means the same at every resolution."""

import torch
from torch import Tensor
import torch.nn.functional as F

BOXES = tuple(2**k for k in range(11))  # sides of the boxes that a reconstruction may be compared in, in pixels


def soft_clamp(logvar: Tensor, low: float, high: float) -> Tensor:
    """log-variance bent into (low, high) with gradients kept everywhere; unchanged when low >= high."""
    if low >= high:
        return logvar
    logvar = low + F.softplus(logvar - low)
    return high - F.softplus(high - logvar)


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """K = mean over batch and dimensions of KL(N(mu, exp(logvar)) || N(0, 1)), in nats per dimension."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()


def residual(x_hat: Tensor, x: Tensor, box: int) -> Tensor:
    """x_hat - x in means of boxes of `box` pixels a side, smaller ones where fewer than 8 boxes a side would be left."""
    box = min(box, max(1, x.shape[-1] // 8))
    return F.avg_pool2d(x_hat - x, box) if box > 1 else x_hat - x


def overshoot(x: Tensor) -> Tensor:
    """Mean over all values of max(|x| - 1, 0)^2: how far images leave [-1, 1]."""
    return F.relu(x.abs() - 1).square().mean()


def squared_slopes(u: Tensor, x: Tensor) -> Tensor:
    """Sum over a batch of |du/dx|^2, u (B, ...) each of its own image of x (B, C, r, r), with its graph: what R1 penalises."""
    (gradient,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    return gradient.float().square().sum()


def nll(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """N = mean over batch and dimensions of (logvar + (z - mu)^2 / exp(logvar)) / 2: P1's sleep term per dimension."""
    return 0.5 * (logvar + (z - mu).square() * (-logvar).exp()).mean()


def diversity(x: Tensor, samples: Tensor) -> dict[str, Tensor]:
    """`diversity`: the spread of the samples over that of the real images x; none of a batch of one."""
    return {"diversity": (samples.detach().var(0).mean() / x.var(0).mean()).sqrt()} if len(x) > 1 else {}


def reconstruction_pull(x_hat: Tensor, x: Tensor, box: int, kappa: float) -> Tensor:
    """|d kappa R / dx_hat|, the mean over the batch (R itself a mean over it): a box mean's gradient is spread over its pixels."""
    error = residual(x_hat.detach(), x, box)
    block = x.shape[-1] // error.shape[-1]
    return error.flatten(1).norm(dim=1).mean() * (2 * kappa / error[0].numel() / block)
