"""Places between latents."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from hires.errors import HiresError
from hires.explore.mixing import mix
from hires.sampling.paths import lerp, slerp

seeds = st.integers(0, 10_000)
shares = st.floats(0, 1)


def latents(seed, count, d=24):
    z = torch.randn(count, d, generator=torch.Generator().manual_seed(seed))
    return z * torch.linspace(0.4, 1.3, count)[:, None]  # codes of pictures are shorter than draws


@settings(max_examples=50, deadline=None)
@given(seeds, shares)
def test_two_points_are_the_clips_paths(seed, t):
    z = latents(seed, 2)
    weights = torch.tensor([1 - t, t])
    torch.testing.assert_close(mix(z, weights), slerp(z[:1], z[1:], t)[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mix(z, weights, "line"), lerp(z[0], z[1], t), atol=1e-5, rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(seeds, st.tuples(shares, shares, shares).filter(lambda w: sum(w) > 1e-2))
def test_three_points_are_no_order(seed, given_weights):
    z, weights = latents(seed, 3), torch.tensor(given_weights)
    here = mix(z, weights)
    for order in ([1, 2, 0], [2, 1, 0]):
        torch.testing.assert_close(mix(z[order], weights[order]), here, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mix(z, 7 * weights), here, atol=1e-4, rtol=1e-4)  # weights count in proportion
    share = weights / weights.sum()
    torch.testing.assert_close(here.norm(), share @ z.norm(dim=1), atol=1e-4, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_it_is_the_place_of_least_weighted_squared_angle(seed):
    z, weights = latents(seed, 3).double(), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    units = z / z.norm(dim=1, keepdim=True)

    def cost(direction):
        return weights @ torch.acos(units @ (direction / direction.norm())).square()

    here = mix(z, weights)
    here = here / here.norm()
    for way in latents(seed + 1, 8).double():
        assert cost(here + 1e-3 * way) > cost(here)


def test_corners_are_the_points():
    z = latents(1, 3)
    for i in range(3):
        torch.testing.assert_close(mix(z, torch.eye(3)[i]), z[i], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mix(z[:1], torch.tensor([0.3])), z[0])


@pytest.mark.parametrize("points", [torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])])
def test_opposite_and_zero_points_take_the_line(points):
    torch.testing.assert_close(mix(points, torch.tensor([0.25, 0.75])), 0.25 * points[0] + 0.75 * points[1])


def test_points_that_balance_take_the_line():
    points = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 1.0]])
    assert mix(points, torch.ones(3)).tolist() == [0, 0, 0]


def test_points_in_one_place_stay_there():
    z = latents(3, 1).expand(3, -1)
    torch.testing.assert_close(mix(z, torch.tensor([0.2, 0.3, 0.5])), z[0], atol=1e-5, rtol=1e-5)


def test_another_path_is_refused():
    with pytest.raises(HiresError, match="path=spline: wanted sphere or line"):
        mix(latents(1, 2), torch.ones(2), "spline")
