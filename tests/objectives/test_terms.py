"""The terms of the losses against torch.distributions, and the weights that depend on the resolution."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from hires.errors import HiresError
from hires.ground.ranges import check_ranges
from hires.networks import NetworkConfig
from hires.objectives.divergence_triangle import Config, Objective
from hires.objectives.terms import kl, nll, overshoot, soft_clamp


@pytest.fixture
def posterior(plain) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    z, mu, logvar = torch.randn(3, 7, 5, generator=plain.stream("posterior"), dtype=torch.float64)
    return z, 2 * mu, 1.5 * logvar


def test_kl_is_the_mean_divergence_per_dimension(posterior):
    _, mu, logvar = posterior
    expected = kl_divergence(Normal(mu, logvar.exp().sqrt()), Normal(torch.zeros_like(mu), torch.ones_like(mu))).mean()
    assert kl(mu, logvar).item() == pytest.approx(expected.item(), abs=1e-12)


def test_nll_is_the_mean_negative_log_likelihood_without_its_constant(posterior):
    z, mu, logvar = posterior
    expected = -Normal(mu, logvar.exp().sqrt()).log_prob(z).mean() - 0.5 * math.log(2 * math.pi)
    assert nll(z, mu, logvar).item() == pytest.approx(expected.item(), abs=1e-12)


def test_soft_clamp_holds_its_bounds_keeps_order_and_lets_gradients_through():
    logvar = torch.linspace(-30, 30, 1201, requires_grad=True)
    bent = soft_clamp(logvar, -8.0, 4.0)
    assert bent.min() >= -8.01 and bent.max() <= 4.0
    assert (bent.diff() >= 0).all()
    (gradient,) = torch.autograd.grad(bent.sum(), logvar)
    assert (gradient > 0).all() and (gradient <= 1).all()
    middle = (logvar > -5) & (logvar < 1)
    assert (bent - logvar)[middle].abs().max() < 0.06


def test_soft_clamp_is_off_when_its_bounds_cross():
    logvar = torch.tensor([-50.0, 0.0, 50.0])
    for low, high in [(0.0, 0.0), (4.0, -8.0)]:
        assert torch.equal(soft_clamp(logvar, low, high), logvar)


def test_kappa_grows_with_the_pixels_and_is_held_and_gamma_goes_on():
    config = Config(kappa_pixel=3.0, kappa_max=3072.0, r1=2.0)
    assert [config.kappa(r) for r in (4, 8, 16, 32, 64, 1024)] == [48, 192, 768, 3072, 3072, 3072]
    assert [config.gamma(r) for r in (4, 16, 32, 64, 128)] == [0.5, 0.5, 2.0, 8.0, 32.0]


def test_overshoot_is_the_mean_square_beyond_one():
    assert overshoot(torch.tensor([-3.0, -1.0, 0.5, 1.0, 2.0])).item() == pytest.approx((4 + 1) / 5)


BAD = [
    {"updates": "first"},
    {"energy": "tanh"},
    {"generator_steps": 0},
    {"r1_every": 0},
    {"beta": -1.0},
    {"kappa_max": math.nan},
    {"lambda_u": -0.1},
    {"r1": -1.0},
    {"r1_on": "fake"},
    {"reconstruct_box": 3},
    {"range": -1.0},
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_meaningless_values_are_refused_in_one_line(bad):
    with pytest.raises(HiresError) as refusal:
        check_ranges(Config(**bad), "objective.")
        Objective.check(Config(**bad), NetworkConfig(), zero_stage=1)
    text = str(refusal.value)
    assert "\n" not in text and next(iter(bad)) in text


def test_second_derivatives_are_refused_on_stage_3_alone():
    Objective.check(Config(r1=0.0), NetworkConfig(), zero_stage=3)
    for stage in (0, 1, 2):
        Objective.check(Config(r1=1.0), NetworkConfig(), stage)
    with pytest.raises(HiresError, match=r"objective\.r1.*zero\.stage=3"):
        Objective.check(Config(r1=1.0), NetworkConfig(), zero_stage=3)
