"""Paths between latents."""

import math

import pytest
import torch

from hires.errors import HiresError
from hires.sampling.interpolation import keyframe_path, lerp, slerp


@pytest.fixture
def pair():
    return torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)).unbind()


def angles(path):
    return torch.nn.functional.cosine_similarity(path[1:].double(), path[:-1].double(), dim=1).acos()


def test_slerp_meets_its_ends_with_constant_angular_speed_and_linear_norm(pair):
    a, b = pair[0], pair[1] * 3
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    t = torch.linspace(0, 1, 11)[:, None]
    path = slerp(a[:1].expand(11, -1), b[:1].expand(11, -1), t)
    steps = angles(path)
    torch.testing.assert_close(steps, steps.mean().expand(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(path.norm(dim=1), lerp(a[0].norm(), b[0].norm(), t[:, 0]))


def test_slerp_on_the_circle_is_known():
    torch.testing.assert_close(slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 1 / 3),
                               torch.tensor([[math.cos(math.pi / 6), math.sin(math.pi / 6)]]))  # fmt: skip


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_slerp_of_parallel_opposite_or_no_vectors_is_finite_and_meets_its_ends(pair, factor):
    a, b = pair[0], pair[0] * factor
    assert slerp(a, b, 0.37).isfinite().all()
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)


def test_slerp_has_no_jump_where_it_turns_into_the_straight_line():
    a = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for angle in (0.9e-4, 1.1e-4):
        b = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
        wanted = torch.tensor([[math.cos(angle * 0.3), math.sin(angle * 0.3)]], dtype=torch.float64)
        torch.testing.assert_close(slerp(a, b, 0.3), wanted, atol=1e-8, rtol=0)


@pytest.mark.parametrize("kind", ["slerp", "linear"])
def test_a_path_visits_its_keys(pair, kind):
    keys = pair[0][:3]
    loop = keyframe_path(keys, 4, kind, loop=True)
    assert loop.shape == (12, 64)
    torch.testing.assert_close(loop[::4], keys)
    line = keyframe_path(keys, 4, kind, loop=False)
    assert line.shape == (9, 64)
    torch.testing.assert_close(line[::4], keys)
    torch.testing.assert_close(line[:8], loop[:8])


def test_a_loop_closes_with_the_step_it_has(pair):
    loop = keyframe_path(pair[0][:2], 8, "slerp", loop=True)
    steps = angles(torch.cat([loop, loop[:1]]))
    torch.testing.assert_close(steps, steps.mean().expand(16), atol=1e-4, rtol=0)


def test_what_is_no_path_is_refused_in_one_line(pair):
    with pytest.raises(HiresError, match="path=spline: wanted slerp or linear"):
        keyframe_path(pair[0], 4, "spline")
    with pytest.raises(HiresError, match="K at least 2"):
        keyframe_path(pair[0][:1], 4)
    with pytest.raises(HiresError, match="wanted at least 1"):
        keyframe_path(pair[0], 0)
