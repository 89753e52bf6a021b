"""Paths between latents."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from hires.errors import HiresError
from hires.sampling.paths import keyframe_path, lerp, moments, slerp, walk

THROUGH = ["slerp", "linear", "spline"]  # the paths that go through their keys
EASINGS = ["none", "smooth"]


def draws(count, dimensions, seed):
    """Keys as they come: draws of N(0, I), each stretched, so that norms differ by up to four times."""
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=noise) * (0.5 + 1.5 * torch.rand(count, 1, generator=noise))


anything = given(st.integers(2, 7), st.integers(1, 9), st.integers(0, 10**6), st.booleans())
few = settings(max_examples=40, deadline=None)


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


@pytest.mark.parametrize("kind", THROUGH)
@pytest.mark.parametrize("easing", EASINGS)
@anything
@few
def test_a_path_visits_its_keys(kind, easing, count, step, seed, loop):
    keys = draws(count, 6, seed)
    path = keyframe_path(keys, step, kind, loop, easing)
    assert path.shape == ((count if loop else count - 1) * step + (not loop), 6)
    torch.testing.assert_close(path[::step], keys, atol=1e-5, rtol=1e-5)
    if not loop:
        torch.testing.assert_close(path[-1], keys[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [*THROUGH, "walk"])
@anything
@few
def test_a_loop_has_no_first_frame(kind, count, step, seed, loop):
    """Begun one key later it is the same loop begun one key later: where it closes is a place like any other."""
    keys, easing = draws(count, 6, seed), "smooth" if loop and kind != "walk" else "none"
    path = keyframe_path(keys, step, kind, loop=True, easing=easing)
    later = keyframe_path(keys.roll(-1, 0), step, kind, loop=True, easing=easing)
    torch.testing.assert_close(later, path.roll(-step, 0), atol=2e-5, rtol=2e-5)


@anything
@few
def test_norms_stay_between_those_of_the_keys(count, step, seed, loop):
    keys = draws(count, 6, seed)
    norms = keys.norm(dim=1)
    for kind in ("slerp", "spline"):
        segment, _ = moments(kind, count, step, loop)
        ends = torch.stack([norms[segment], norms[(segment + 1) % count]])
        found = keyframe_path(keys, step, kind, loop).norm(dim=1)
        assert (found >= ends.amin(0) * 0.999).all() and (found <= ends.amax(0) * 1.001).all()
    found = keyframe_path(keys, step, "walk", loop).norm(dim=1)
    assert (found >= norms.min() * 0.999).all() and (found <= norms.max() * 1.001).all()
    torch.testing.assert_close(keyframe_path(keys[:2], step, "circle", loop).norm(dim=1), norms[0].expand(4 * step + (not loop)))


def test_a_straight_line_does_lose_norm_where_the_others_keep_it():
    keys = torch.randn(4, 512, generator=torch.Generator().manual_seed(3))
    assert keyframe_path(keys, 8, "linear").norm(dim=1).min() < 0.75 * keys.norm(dim=1).min()


def test_a_walk_is_a_draw_of_the_prior_at_any_time():
    """Orthonormal keys show the weights themselves: independent N(0, I) keys give N(0, I) where their squares add up to 1."""
    for loop in (True, False):
        weights = walk(torch.eye(6), torch.linspace(0, 5, 101), loop)
        torch.testing.assert_close(weights.square().sum(1), torch.ones(101))
        assert (weights > 0).all() and weights[0].argmax() == 0 and weights[50].max() < 0.8


def test_a_circle_is_round_and_goes_through_its_two_keys():
    a = torch.tensor([2.0, 0.0, 0.0])
    path = keyframe_path(torch.stack([a, torch.tensor([1.0, 0.0, 5.0])]), 2, "circle")
    wanted = [[math.cos(i * math.pi / 4) * 2, 0.0, math.sin(i * math.pi / 4) * 2] for i in range(8)]
    torch.testing.assert_close(path, torch.tensor(wanted), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("kind", "easing", "corner"), [
    ("slerp", "none", True), ("linear", "none", True), ("slerp", "smooth", False), ("linear", "smooth", False),
    ("spline", "none", False), ("walk", "none", False), ("circle", "none", False),
])  # fmt: skip
def test_what_is_smooth_turns_no_corner(kind, easing, corner):
    """With half the step, second differences are a quarter on a smooth curve and half at a corner; the loop's closing is among them."""

    def turn(step):
        path = keyframe_path(draws(2 if kind == "circle" else 5, 16, 0).double(), step, kind, loop=True, easing=easing)
        return (path.roll(1, 0) - 2 * path + path.roll(-1, 0)).norm(dim=1).max()

    ratio = float(turn(128) / turn(64))
    assert ratio > 0.45 if corner else ratio < 0.3


def test_easing_slows_down_at_the_keys_alone():
    segment, t = moments("slerp", 3, 10, loop=False, easing="smooth")
    assert segment.tolist() == [0] * 10 + [1] * 11
    speed = (segment + t).diff()
    assert (speed > 0).all() and t[-1] == 1
    assert speed[0] < 0.4 * speed[4] and speed[9] < 0.4 * speed[4] and speed[10] < 0.4 * speed[4]


def test_a_loop_closes_with_the_step_it_has(pair):
    loop = keyframe_path(pair[0][:2], 8, "slerp", loop=True)
    steps = angles(torch.cat([loop, loop[:1]]))
    torch.testing.assert_close(steps, steps.mean().expand(16), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"kind": "bezier"}, "path=bezier: wanted slerp, linear, spline, walk, circle"),
    ({"easing": "bounce"}, "easing=bounce: wanted none or smooth"),
    ({"kind": "walk", "easing": "smooth"}, "path=walk has no keyframe to slow down at"),
    ({"kind": "circle"}, "path=circle: 5 keyframes, wanted 2"),
    ({"frames_per_key": 0}, "0 frames .* wanted at least 1"),
])  # fmt: skip
def test_what_is_no_path_is_refused_in_one_line(pair, arguments, message):
    with pytest.raises(HiresError, match=message):
        keyframe_path(pair[0], **{"frames_per_key": 4} | arguments)


def test_keys_that_are_none_are_refused_in_one_line(pair):
    with pytest.raises(HiresError, match="1 keyframe, wanted at least 2"):
        keyframe_path(pair[0][:1], 4)
    with pytest.raises(HiresError, match=r"wanted \(K, d\)"):
        keyframe_path(pair[0][0], 4)
    with pytest.raises(HiresError, match="parallel"):
        keyframe_path(torch.stack([pair[0][0], -2 * pair[0][0]]), 4, "circle")
