"""experiments/plane.py: that its sets' densities, samplers and measures are what they say, and that the systems play and learn there."""

from collections.abc import Iterator
import importlib
import math
from pathlib import Path
import sys

import numpy as np
import pytest
from scipy.stats import chisquare
import torch

SETS = ("eight_gaussians", "pinwheel", "two_spirals")


@pytest.fixture(scope="module")
def plane(world) -> Iterator:
    folder = str(Path(__file__).parents[2] / "experiments")
    sys.path.insert(0, folder)
    yield importlib.import_module("plane")
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def sets(plane):
    return sys.modules["plane_sets"]


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", SETS)
def test_a_density_integrates_to_one(sets, name):
    assert sets.SETS[name].log_density(sets.grid()).exp().sum() * sets.WIDTH**2 == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", SETS)
def test_a_sampler_draws_its_density(sets, name):
    """Counts in blocks of 4 x 4 cells against the density's masses: a chi-square test, rare blocks taken together."""
    truth, n = sets.SETS[name], 20_000
    x = truth.sample(n, dice())
    counts, masses = (m.reshape(32, 4, 32, 4).sum((1, 3)).ravel() * n for m in (sets.histogram(x), sets.masses(truth)))
    often = masses >= 5
    seen, due = (np.append(m[often], m[~often].sum()) for m in (counts, masses))
    assert chisquare(seen, due * seen.sum() / due.sum()).pvalue > 1e-3


@pytest.mark.parametrize("name", SETS)
def test_pieces_are_equal_and_counted_when_lost(sets, name):
    truth = sets.SETS[name]
    x = truth.sample(20_000, dice(1))
    at = truth.piece(x)
    assert torch.bincount(at, minlength=truth.pieces) / len(x) * truth.pieces == pytest.approx(torch.ones(truth.pieces), abs=0.15)
    assert sets.held(truth, x) == truth.pieces
    assert sets.shares(truth, x)[1] == pytest.approx(0.01, abs=0.003)
    assert sets.held(truth, x[(at != 0) & (at != 3)]) == truth.pieces - 2
    few = torch.cat([x[at != 0], x[at == 0][: len(x) // truth.pieces // 5]])  # a fifth of its share: below a quarter
    assert sets.held(truth, few) == truth.pieces - 1
    assert sets.held(truth, torch.full((100, 2), 0.99)) == 0


def test_kl_of_two_gaussians_is_the_closed_form(sets):
    (m, s), (k, t) = (torch.tensor([0.1, -0.2]), 0.1), (torch.tensor([0.0, 0.05]), 0.15)
    p, q = (sets.probabilities(-((sets.grid() - mean) / width).square().sum(1) / 2) for mean, width in ((m, s), (k, t)))
    exact = 2 * math.log(t / s) + (2 * s**2 + (m - k).square().sum().item()) / (2 * t**2) - 1
    assert sets.kl(p, q) == pytest.approx(exact, rel=1e-4)


def test_an_energy_at_another_temperature_is_told_from_a_wrong_one(sets):
    truth = sets.SETS["two_spirals"]
    u = -truth.log_density(sets.grid()) / 2 + 7
    at_one, best, b = sets.energy_kl(truth, u)
    assert (best, b) == pytest.approx((0, 2), abs=1e-3) and at_one > 0.05
    flat = sets.energy_kl(truth, torch.zeros(sets.CELLS**2))
    p = sets.masses(truth)
    entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
    assert flat[0] == pytest.approx(math.log(sets.CELLS**2) - entropy)


def test_samples_of_the_truth_are_near_it_and_a_lost_mode_is_far(sets):
    truth = sets.SETS["eight_gaussians"]
    x = truth.sample(5000, dice(2))
    assert sets.samples_kl(truth, x) < 0.02
    lost = x[truth.piece(x) != 0]
    # of the rest the samples have 8/7 of its density; of the lost Gaussian, blurred, only what the uniform share gives
    variance = 0.05**2 + sets.BLUR**2
    gone = -math.log(8) - 1 - math.log(2 * math.pi * variance) - math.log(sets.UNIFORM / 4)
    assert sets.samples_kl(truth, lost) == pytest.approx(7 / 8 * math.log(7 / 8) + gone / 8, abs=0.02)


def test_every_system_plays_and_draws(plane, sets, monkeypatch):
    monkeypatch.setattr(plane, "DRAWS", 32)
    monkeypatch.setattr(plane, "FROM_NOISE", 2)
    truth = sets.SETS["pinwheel"]
    for name, system in plane.NAMES.items():
        config, networks = plane.learn(system, truth, 0, 2)
        x = plane.draws(system, config, networks, truth, 0)
        u = plane.energies(networks, system.objective == "latent_ebm")
        assert x.shape == (32, 2) and u.shape == (sets.CELLS**2,), name
        assert x.isfinite().all() and u.isfinite().all(), name


def test_learning_brings_samples_nearer(plane, sets):
    truth, system = sets.SETS["eight_gaussians"], plane.NAMES["GAN"]

    def distance(rounds: int) -> float:
        return sets.samples_kl(truth, plane.draws(system, *plane.learn(system, truth, 0, rounds), truth, 0))

    assert distance(300) < 0.3 * distance(0)


def test_a_result_of_other_settings_is_made_again(plane, monkeypatch, tmp_path):
    monkeypatch.setattr(plane, "DRAWS", 8)
    path = tmp_path / "one.npz"
    made = []
    for shorten in (3000, 3000, 1500):
        plane.run("GAN", "pinwheel", 0, shorten, path)
        made.append(path.stat().st_ino)
    assert made[0] == made[1] != made[2]
