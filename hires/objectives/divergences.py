"""f-divergences in log-ratio form, and the two losses that f-EBM makes of one (Yu et al., ICML 2020).

D_f(p || q) = E_q f(p / q), f convex, f(1) = 0. With r = log p/q, u = e^r, the variational bound needs A(r) = f'(u) on data and
B(r) = f*(f'(u)) = u f'(u) - f(u) on samples; f* is the convex conjugate. q = exp(-E) / Z is an energy-based model and r is learned as
H + E, so that at the best H

    D_f(p || q) = E_p A(r) - E_q B(r)     and     dD_f / dtheta = Cov_q(B(r), dE / dtheta)    (Theorem 3)
"""

from collections.abc import Callable
from dataclasses import dataclass
import math

import torch
from torch import Tensor
import torch.nn.functional as F

from hires.errors import HiresError

LIMIT = 5.0  # of an exponent's argument


@dataclass(frozen=True)
class Divergence:
    """f of the density ratio u = p/q, and A = f'(e^r), B = f*(f'(e^r)) of its logarithm r; all element by element."""

    f: Callable[[Tensor], Tensor]
    A: Callable[[Tensor], Tensor]
    B: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]  # A'(r); B' = e^r A' for every f
    factor: float  # the largest of r in an exponent of A and B

    def limited(self, limit: float) -> "Divergence":
        """Another f-divergence, the same where no exponent's argument leaves [-limit, limit], whose A and B are less steep beyond.

        There, f goes on as Jensen-Shannon's: A(r) on straight and B(r) levelling off to the one side, the reverse to the other, B' = e^r A'
        everywhere, so the bound keeps its maximum at log p/q. P4's code cuts each argument off by itself: then no gradient is left of the
        pictures that the densities disagree most about, and between the points where A and where B is cut the maximum is elsewhere.
        """
        if not self.factor:
            return self
        end = limit / self.factor
        low, high = (self.slope(torch.tensor(r, dtype=torch.float64)).item() for r in (-end, end))

        def A(r: Tensor) -> Tensor:
            over, under = F.relu(r - end), -F.relu(-end - r)
            return self.A(r.clamp(-end, end)) - high * torch.expm1(-over) + low * under

        def B(r: Tensor) -> Tensor:
            over, under = F.relu(r - end), -F.relu(-end - r)
            return self.B(r.clamp(-end, end)) + high * math.exp(end) * over + low * math.exp(-end) * torch.expm1(under)

        return Divergence(self.f, A, B, self.slope, self.factor)


DIVERGENCES = {
    "kl": Divergence(lambda u: u * u.log(), lambda r: 1 + r, torch.exp, torch.ones_like, 1),
    "reverse_kl": Divergence(lambda u: -u.log(), lambda r: -torch.exp(-r), lambda r: r - 1, lambda r: torch.exp(-r), 1),
    "jensen_shannon": Divergence(  # twice the usual one
        lambda u: u * u.log() - (u + 1) * ((1 + u) / 2).log(),
        lambda r: math.log(2) - F.softplus(-r),
        lambda r: F.softplus(r) - math.log(2),
        lambda r: torch.sigmoid(-r),
        0,
    ),
    "squared_hellinger": Divergence(
        lambda u: (u.sqrt() - 1).square(),
        lambda r: 1 - torch.exp(-r / 2),
        lambda r: torch.exp(r / 2) - 1,
        lambda r: torch.exp(-r / 2) / 2,
        0.5,
    ),
    "pearson": Divergence(
        lambda u: (u - 1).square(), lambda r: 2 * torch.exp(r) - 2, lambda r: torch.exp(2 * r) - 1, lambda r: 2 * torch.exp(r), 2
    ),
    "neyman": Divergence(
        lambda u: (1 - u).square() / u,
        lambda r: 1 - torch.exp(-2 * r),
        lambda r: 2 - 2 * torch.exp(-r),
        lambda r: 2 * torch.exp(-2 * r),
        2,
    ),
}
NAMES = (*DIVERGENCES, "alpha")


def alpha(a: float) -> Divergence:
    """The alpha-divergence of order a, neither 0 nor 1: the limits there are reverse KL and KL; -1 is half of Neyman's."""
    return Divergence(
        lambda u: (u**a - 1 - a * (u - 1)) / (a * (a - 1)),
        lambda r: torch.expm1((a - 1) * r) / (a - 1),
        lambda r: torch.expm1(a * r) / a,
        lambda r: torch.exp((a - 1) * r),
        max(abs(a), abs(a - 1)),
    )


def divergence(name: str, order: float = 0.5, limit: float = LIMIT) -> Divergence:
    """The divergence of one of NAMES, limited; `order` is of the alpha-divergence alone. Raises HiresError for another name or order."""
    if name == "alpha":
        if not math.isfinite(order) or order in (0, 1):
            raise HiresError(f"objective.order={order}: wanted a number other than 0 and 1, which are divergence=reverse_kl and kl")
        return alpha(order).limited(limit)
    if name not in DIVERGENCES:
        raise HiresError(f"objective.divergence={name}: wanted {', '.join(NAMES)}")
    return DIVERGENCES[name].limited(limit)


def bound(divergence: Divergence, r_p: Tensor, r_q: Tensor) -> Tensor:
    """E_p A(r) - E_q B(r) of log-ratios r = H + E on data and on samples (any shapes): at most D_f(p || q). H raises it."""
    return divergence.A(r_p).mean() - divergence.B(r_q).mean()


def energy_loss(divergence: Divergence, r_p: Tensor, r_q: Tensor, e_q: Tensor, mean_b: Tensor | None = None) -> Tensor:
    """The energy's loss, of r = H + E on data and on samples, both with E's gradient, and of E on those samples (P4 Eq. 18):

        E_p A(r) - E_q B(r) + E_q[E B] - E_q[E] E_q[B],     the B of the last two held fixed

    At the best H its first two terms' gradients cancel and the covariance remains. `mean_b` is E_q B over more samples than these (those
    of other ranks and micro-batches), fixed; None: over these.
    """
    b = divergence.B(r_q)
    fixed = b.detach()
    mean_b = fixed.mean() if mean_b is None else mean_b
    return divergence.A(r_p).mean() - b.mean() + (e_q * (fixed - mean_b)).mean()


def quadrature(divergence: Divergence, p: Tensor, q: Tensor, width: float) -> Tensor:
    """D_f(p || q) of densities on a grid of spacing `width`, nodes where q vanishes left out."""
    inside = q > torch.finfo(q.dtype).tiny
    return (q[inside] * divergence.f(p[inside] / q[inside])).sum() * width
