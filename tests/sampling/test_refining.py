"""Langevin steps against what is known of them on U(x) = |x|^2 / 2, and their noise against batches."""

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from hires.errors import HiresError
from hires.sampling.drawing import draw
from hires.sampling.refining import LangevinConfig, check, langevin


def bowl(x):
    return x.square().flatten(1).sum(1) / 2


def test_without_noise_each_step_shrinks_a_bowl_by_the_same_factor():
    start = torch.linspace(-3, 3, 12).view(2, 6)
    found = langevin(bowl, start, [0, 1], 5, 0.6, 0.0)
    torch.testing.assert_close(found, start * (1 - 0.6**2 / 2) ** 5)
    assert torch.equal(langevin(bowl, start, [0, 1], 0, 0.6, 0.0), start)


@pytest.mark.parametrize("noise", [1.0, 0.5])
def test_with_noise_it_samples_the_bowl_at_temperature_noise_squared(noise):
    s, seeds = 0.5, list(range(64))
    found = langevin(bowl, torch.full((64, 64), 2.0), seeds, 100, s, noise)
    # the chain x' = (1 - s^2 / 2) x + noise s e has this variance, the continuous one has noise^2
    wanted = noise**2 / (1 - s**2 / 4)
    assert found.var().item() == pytest.approx(wanted, rel=0.1)  # 4,096 values: their variance is known to 2%
    assert abs(found.mean().item()) < 0.1 * noise


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_a_seed_takes_the_same_path_in_any_list(seeds, random):
    config = 3, 0.3, 0.7
    start = torch.stack([torch.full((2, 3), seed % 7 - 3.0) for seed in seeds])
    together = langevin(bowl, start, seeds, *config)
    order = random.sample(range(len(seeds)), len(seeds))
    assert torch.equal(langevin(bowl, start[order], [seeds[i] for i in order], *config), together[order])
    for i, seed in enumerate(seeds):
        assert torch.equal(langevin(bowl, start[i : i + 1], [seed], *config)[0], together[i])


def test_noise_differs_from_step_to_step_and_from_seed_to_seed():
    def flat(x):
        return (0 * x).flatten(1).sum(1)

    one = langevin(flat, torch.zeros(2, 5), [1, 2], 1, 1.0, 1.0)
    two = langevin(flat, torch.zeros(2, 5), [1, 2], 2, 1.0, 1.0)
    assert (one[0] - one[1]).abs().max() > 0.1 and (two - 2 * one).abs().max() > 0.1


def test_a_bound_holds_pictures_in_their_range():
    found = langevin(lambda x: -9 * bowl(x), torch.full((1, 4), 0.9), [0], 4, 0.5, 0.0, bound=1.0)
    assert torch.equal(found, torch.ones(1, 4))


@pytest.mark.parametrize(("weight", "trained", "a"), [(None, {}, 1), (None, {"energy_weight": 4.0}, 4), (9.0, {"energy_weight": 4.0}, 9)])
def test_refined_latents_are_of_the_prior_tilted_by_the_weighted_energy(weight, trained, a):
    """Here that is N(3 a / (1 + a), 1 / (1 + a)), whose variance steps of s raise by 1 / (1 - s^2 (1 + a) / 4)."""
    s, d = 0.2, 6
    bundle = SimpleNamespace(
        resolution=32, latent=d, device="cpu", config={"info": trained}, place=lambda w, prior: w,
        generator=lambda w: (w / 100)[:, None, None],
        energy=lambda x: (100 * x - 3).square().flatten(1).sum(1) / 2,
        latents=lambda seeds, prior: torch.randn(len(seeds), d, generator=torch.Generator().manual_seed(seeds[0])),
    )  # fmt: skip
    refine = LangevinConfig(steps=200, step_size=s, space="latents", weight=weight)
    w = 100 * torch.cat([part.pictures for part in draw(bundle, list(range(400)), refine=refine)]).flatten()
    spread = 1 / (1 + a) / (1 - s**2 * (1 + a) / 4)
    assert abs(w.mean() - 3 * a / (1 + a)) < 4 * (spread / len(w)) ** 0.5
    assert abs(w.var() / spread - 1) < 4 * (2 / len(w)) ** 0.5


@pytest.mark.parametrize("found", ["ten", -1.0, float("nan"), True])
def test_a_bundle_with_no_such_weight_is_one_line(found):
    config = {"info": {"energy_weight": found}}
    bundle = SimpleNamespace(
        config=config, latent=1, device="cpu", resolution=32, energy=bowl, place=lambda w, prior: w, generator=lambda w: w,
        latents=lambda seeds, prior: torch.zeros(len(seeds), 1),
    )  # fmt: skip
    with pytest.raises(HiresError, match=r"info\.energy_weight=.*wanted a number from 0 up"):
        next(draw(bundle, [0], refine=LangevinConfig(steps=1, space="latents")))


def test_steps_too_large_are_one_line():
    with pytest.raises(HiresError, match=r"wanted a smaller langevin\.step_size than 1000"):
        langevin(bowl, torch.ones(1, 4), [0], 100, 1000.0, 1.0)


@pytest.mark.parametrize(
    "change",
    [{"steps": -1}, {"step_size": 0.0}, {"step_size": float("nan")}, {"noise": -0.1}, {"space": "codes"}, {"weight": 2.0}],
)
def test_settings_that_mean_nothing_are_one_line(change):
    with pytest.raises(HiresError, match=f"langevin.{next(iter(change))}="):
        check(LangevinConfig(**change))
