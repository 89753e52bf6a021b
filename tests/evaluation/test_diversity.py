"""Diversity: closed forms for Gaussian images, and nought for a sampler that knows one image."""

import math

import pytest
from scipy.spatial.distance import pdist
import torch

from hires.errors import HiresError
from hires.evaluation.diversity import diversity, mean_pairwise_rms


def noise(count: int, scale: float, seed: int) -> torch.Tensor:
    return scale * torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_the_pairwise_mean_is_scipys():
    images = noise(40, 0.7, 0)
    wanted = pdist(images.flatten(1).numpy()).mean() / math.sqrt(3 * 8 * 8)
    assert mean_pairwise_rms(images) == pytest.approx(wanted, rel=1e-6)


def test_gaussian_images_are_sqrt_2_sigma_apart():
    """|a - b|^2 is 2 sigma^2 chi^2_n; its mean root is sqrt(2) sigma (1 - 1/(4 n)) to first order."""
    wanted = math.sqrt(2) * 0.3 * (1 - 1 / (4 * 192))
    assert mean_pairwise_rms(noise(300, 0.3, 1)) == pytest.approx(wanted, rel=5e-3)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_ratio_is_the_ratio_of_the_spreads(scale):
    assert diversity(noise(300, scale, 1), noise(250, 1.0, 2)) == pytest.approx(scale, rel=0.02)  # 300 images of 192 values: 0.5 % a set


def test_one_image_for_all_is_nought_and_the_mean_does_not_count():
    same = torch.full((50, 3, 8, 8), 0.9)
    real = noise(50, 1.0, 0)
    assert diversity(same, real) == pytest.approx(0, abs=1e-6)
    assert diversity(real + 0.7, real) == pytest.approx(1, abs=1e-6)


def test_half_the_samples_alike_costs_a_quarter_of_the_pairs():
    real = noise(200, 1.0, 3)
    samples = real.clone()
    samples[:100] = samples[0]
    assert diversity(samples, real) == pytest.approx(1 - (100 * 99) / (200 * 199), rel=5e-3)


def test_sets_that_cannot_be_compared_are_refused():
    with pytest.raises(HiresError, match="at least 2"):
        diversity(noise(1, 1, 0), noise(5, 1, 0))
    with pytest.raises(HiresError, match="real pictures are all equal"):
        diversity(noise(5, 1, 0), torch.full((5, 3, 8, 8), 0.3))
    with pytest.raises(HiresError, match="differ in size"):
        diversity(noise(5, 1, 0)[..., :4], noise(5, 1, 0))
