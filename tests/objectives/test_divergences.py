"""The divergences' log-ratio forms against f itself (its derivative, its convex conjugate by optimisation) and Theorem 3's gradient
against closed forms and quadrature."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm
import torch

from hires.errors import HiresError
from hires.objectives.divergences import NAMES, bound, divergence, energy_loss, quadrature

CASES = [(name, 0.5) for name in NAMES if name != "alpha"] + [("alpha", order) for order in (-1.0, -0.5, 0.5, 0.9, 2.0)]
RATIOS = st.floats(-2.4, 2.4)  # log-ratios for which no exponent meets its limit
WIDE = 50.0  # a limit that nothing here meets


def scalar(function, value: float) -> float:
    return function(torch.tensor(value, dtype=torch.float64)).item()


@pytest.mark.parametrize("name,order", CASES)
@given(r=RATIOS)
@settings(max_examples=30, deadline=None)
def test_A_is_the_derivative_of_f_and_B_is_u_times_it_less_f(name, order, r):
    d = divergence(name, order)
    u = torch.tensor(math.exp(r), dtype=torch.float64, requires_grad=True)
    value = d.f(u)
    (slope,) = torch.autograd.grad(value, u)
    assert scalar(d.A, r) == pytest.approx(slope.item(), rel=1e-10, abs=1e-10)
    assert scalar(d.B, r) == pytest.approx((u * slope - value).item(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name,order", CASES)
@given(r=RATIOS)
@settings(max_examples=15, deadline=None)
def test_B_is_the_convex_conjugate_of_f_at_A(name, order, r):
    """f*(t) = sup over v > 0 of v t - f(v), searched for by scipy over log v."""
    d = divergence(name, order)
    t = scalar(d.A, r)
    found = minimize_scalar(lambda v: scalar(d.f, math.exp(v)) - math.exp(v) * t, bounds=(-6, 6), method="bounded", options={"xatol": 1e-9})
    assert scalar(d.B, r) == pytest.approx(-found.fun, rel=1e-6, abs=1e-6)
    assert found.x == pytest.approx(r, abs=1e-3)


@pytest.mark.parametrize("name,order", CASES)
def test_f_is_convex_and_vanishes_at_one(name, order):
    d = divergence(name, order)
    u = torch.linspace(0.05, 8, 400, dtype=torch.float64)
    assert (d.f(u).diff().diff() > 0).all()
    assert scalar(d.f, 1.0) == pytest.approx(0, abs=1e-12)
    # equal densities: no divergence, and the bound says so too
    assert bound(d, torch.zeros(4), torch.zeros(4)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name,order", CASES)
def test_limited_it_is_still_an_f_divergence_and_no_steeper_than_at_its_limit(name, order):
    """B' = e^r A' with A' > 0 is all that puts the bound's maximum at log p/q, wherever that lies."""
    d, free = divergence(name, order, limit=2.0), divergence(name, order, WIDE)
    r = torch.linspace(-12, 12, 385, dtype=torch.float64, requires_grad=True)
    slopes = [torch.autograd.grad(function(r).sum(), r)[0] for function in (d.A, d.B)]
    torch.testing.assert_close(slopes[1], r.detach().exp() * slopes[0], rtol=1e-6, atol=0)
    assert (slopes[0] > 0).all() and all(slope.max() < 2.01 * math.exp(2) * math.exp(2) for slope in slopes)
    assert all((slope.log().diff().abs() < 2.2 * 0.0625).all() for slope in slopes)  # nor does either jump at the limit
    for ours, whole in ((d.A, free.A), (d.B, free.B)):
        values = ours(r.detach())
        same = r.detach().abs() <= (1.0 if name in ("pearson", "neyman") else 2.0 / max(abs(order), abs(order - 1), 1))
        torch.testing.assert_close(values[same], whole(r.detach())[same])
        assert values.diff().max() < 2.01 * math.exp(4) * 0.0625


# ---------------------------------------------------------------------------------------------- Theorem 3

P = (0.4, 0.9)  # mean and standard deviation of the data
Q = (0.1, 1.0)  # of the model


def closed_form(name: str, mu: torch.Tensor, log_sigma: torch.Tensor) -> torch.Tensor:
    """D_f(N(m, s^2) || N(mu, sigma^2)) as the textbooks have it."""
    (m, s), sigma = P, log_sigma.exp()
    if name == "kl":
        return (sigma / s).log() + (s**2 + (m - mu) ** 2) / (2 * sigma**2) - 0.5
    if name == "reverse_kl":
        return (s / sigma).log() + (sigma**2 + (m - mu) ** 2) / (2 * s**2) - 0.5
    if name == "squared_hellinger":
        between = (2 * s * sigma / (s**2 + sigma**2)).sqrt() * (-((m - mu) ** 2) / (4 * (s**2 + sigma**2))).exp()
        return 2 - 2 * between
    # chi squared: the integral of p^2 / q
    precision = 2 / s**2 - 1 / sigma**2
    centre = (2 * m / s**2 - mu / sigma**2) / precision
    height = sigma / s**2 / precision.sqrt()
    return height * (-(m**2) / s**2 + mu**2 / (2 * sigma**2) + precision * centre**2 / 2).exp() - 1


def parameters() -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (Q[0], math.log(Q[1])))


def gradient_of_the_loss(name: str, order: float) -> list[float]:
    """Of the energy's loss at the best H, on quantiles of p and q in place of samples, to (mu, log sigma)."""
    n = 400_000
    levels = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x_p, x_q = (torch.from_numpy(norm.ppf(levels.numpy(), *of)) for of in (P, Q))
    mu, log_sigma = parameters()

    def energy(x):
        return (x - mu) ** 2 / (2 * (2 * log_sigma).exp())

    def best_h(x):  # log p/q - E, a function of x alone
        log_p = -((x - P[0]) ** 2) / (2 * P[1] ** 2) - math.log(P[1])
        log_q = -((x - Q[0]) ** 2) / (2 * Q[1] ** 2) - math.log(Q[1])
        return (log_p - log_q) - (x - Q[0]) ** 2 / (2 * Q[1] ** 2)

    e_p, e_q = energy(x_p), energy(x_q)
    loss = energy_loss(divergence(name, order, WIDE), best_h(x_p) + e_p, best_h(x_q) + e_q, e_q)
    return [g.item() for g in torch.autograd.grad(loss, (mu, log_sigma))]


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "squared_hellinger", "pearson"])
def test_the_loss_has_the_gradient_of_the_divergence_in_closed_form(name):
    mu, log_sigma = parameters()
    wanted = [g.item() for g in torch.autograd.grad(closed_form(name, mu, log_sigma), (mu, log_sigma))]
    assert max(map(abs, wanted)) > 0.05
    assert gradient_of_the_loss(name, 0.5) == pytest.approx(wanted, rel=2e-3, abs=1e-3)


def normal(x, mean, deviation):
    return (-((x - mean) ** 2) / (2 * deviation**2)).exp() / (deviation * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("name,order", CASES)
def test_the_covariance_of_B_and_the_energys_gradient_is_the_gradient_by_quadrature(name, order):
    d, width = divergence(name, order, WIDE), 2e-3
    x = torch.arange(-9, 9, width, dtype=torch.float64)
    mu, log_sigma = parameters()
    p, q = normal(x, *P), normal(x, mu, log_sigma.exp())
    wanted = torch.autograd.grad(quadrature(d, p, q, width), (mu, log_sigma))
    B, fixed = d.B((p / q).log()).detach(), q.detach()
    energy = (x - mu) ** 2 / (2 * (2 * log_sigma).exp())
    found = torch.autograd.grad((fixed * (B - (fixed * B).sum() * width) * energy).sum() * width, (mu, log_sigma))
    assert max(g.abs() for g in wanted) > 0.02
    for a, b in zip(found, wanted, strict=True):
        assert a.item() == pytest.approx(b.item(), rel=1e-5, abs=1e-7)
    # and the best H makes the bound tight
    assert (p * d.A((p / q).log()) - q * B).sum().item() * width == pytest.approx(quadrature(d, p, q, width).item(), rel=1e-6)


def test_the_mean_of_more_samples_takes_the_place_of_these():
    """Two halves with the whole's mean make the whole batch's gradient: what ranks and micro-batches rely on."""
    d = divergence("jensen_shannon")
    r_p, r_q, e_q = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    r_p, r_q, e_q = (t.requires_grad_() for t in (r_p, r_q, e_q))
    whole = torch.autograd.grad(energy_loss(d, r_p, r_q, e_q), (r_p, r_q, e_q))
    mean = d.B(r_q).detach().mean()
    halves = [energy_loss(d, r_p[s], r_q[s], e_q[s], mean) / 2 for s in (slice(0, 4), slice(4, 8))]
    for a, b in zip(torch.autograd.grad(sum(halves), (r_p, r_q, e_q)), whole, strict=True):
        torch.testing.assert_close(a, b)


def test_names_and_orders_that_are_none_are_refused_in_one_line():
    with pytest.raises(HiresError, match=r"objective\.divergence=kullback: wanted kl, reverse_kl"):
        divergence("kullback")
    for order in (0.0, 1.0, math.nan):
        with pytest.raises(HiresError, match=r"objective\.order="):
            divergence("alpha", order)
