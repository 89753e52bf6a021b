"""The band measures: against scipy's 1-D distance, and what blur, noise and burnt images must do to them."""

import math

import pytest
from scipy.stats import wasserstein_distance
import torch
import torch.nn.functional as F

from hires.errors import HiresError
from hires.evaluation.swd import (
    PROJECTIONS,
    band_statistics,
    laplacian_pyramid,
    projected_distance,
    real_floor,
    sliced_wasserstein,
)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, side: int, seed: int) -> torch.Tensor:
    """Images with the spectrum of photographs (amplitude 1/f), which plain noise has not."""
    frequencies = torch.fft.fftfreq(side)
    radius = (frequencies[:, None] ** 2 + frequencies**2).sqrt().clamp_min(1 / side)
    noise = torch.randn(count, 3, side, side, generator=stream(seed))
    images = torch.fft.ifft2(torch.fft.fft2(noise) / radius).real
    return images / images.std() * 0.4


def test_the_distance_on_known_directions_is_scipys():
    a, b = torch.randn(500, 7, generator=stream(1)), torch.randn(500, 7, generator=stream(2)) * 2 + 1
    directions = F.normalize(torch.randn(7, 9, generator=stream(3)), dim=0)
    wanted = [wasserstein_distance((a @ d).numpy(), (b @ d).numpy()) for d in directions.T]
    assert projected_distance(a, b, directions) == pytest.approx(sum(wanted) / 9, rel=1e-5)


def test_a_shift_of_every_value_is_measured_exactly():
    a = torch.randn(100, 4, generator=stream())
    directions = torch.eye(4)[:, :1]
    assert projected_distance(a, a + 0.25, directions) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("side", [8, 16, 64])
def test_the_bands_sum_to_the_images_and_end_at_8(side):
    images = pictures(3, side, 0)
    bands = laplacian_pyramid(images)
    assert [b.shape[-1] for b in bands] == [side >> i for i in range(int(math.log2(side)) - 2)]
    whole = sum(F.interpolate(band, size=(side, side)) for band in bands)
    assert torch.allclose(whole, images, atol=1e-5)


def test_a_constant_image_has_no_fine_band():
    fine, coarse = laplacian_pyramid(torch.full((1, 3, 16, 16), 0.5))
    assert fine.abs().max() < 1e-6
    assert torch.equal(coarse, torch.full((1, 3, 8, 8), 0.5))


def test_a_set_against_itself_scores_the_patches_drawn_alone():
    images = pictures(200, 16, 0)
    same, other = sliced_wasserstein(images, images, stream()), sliced_wasserstein(images, pictures(200, 16, 1), stream())
    assert max(same) < 60
    assert len(same) == len(other) == 2


def test_the_same_seed_gives_the_same_score():
    a, b = pictures(50, 16, 0), pictures(50, 16, 1)
    assert sliced_wasserstein(a, b, stream(5)) == sliced_wasserstein(a, b, stream(5))


def test_blur_raises_the_finest_band_alone():
    real, other = pictures(300, 32, 0), pictures(300, 32, 1)
    blurred = F.interpolate(F.avg_pool2d(other, 2), scale_factor=2.0)
    sharp, score = sliced_wasserstein(other, real, stream(2)), sliced_wasserstein(blurred, real, stream(2))
    assert score[0] > 500 > 10 * sharp[0]
    assert score[1:] == pytest.approx(sharp[1:], rel=1e-3)


def test_too_weak_contrast_in_a_band_is_seen():
    real, other = pictures(300, 16, 0), pictures(300, 16, 1)
    fine, coarse = laplacian_pyramid(other)
    weak = sliced_wasserstein(F.interpolate(coarse, scale_factor=2.0) + 0.5 * fine, real, stream())
    # a descriptor half as wide as the real one of unit width is E|N(0,1)| / 2 = .40 away, whatever the direction
    assert weak[0] == pytest.approx(400, rel=0.25)


def test_gaussian_noise_is_as_far_as_its_closed_form_says():
    """Both sets i.i.d. Gaussian pixels, the samples twice as strong: every projection is |2 - 1| E|N(0,1)| = .798 apart."""
    real, twice = torch.randn(600, 3, 8, 8, generator=stream(0)), 2 * torch.randn(600, 3, 8, 8, generator=stream(1))
    assert sliced_wasserstein(twice, real, stream())[0] == pytest.approx(1000 * math.sqrt(2 / math.pi), rel=0.05)


def test_band_ratios_of_scaled_noise_are_the_scales():
    noise = torch.randn(200, 3, 32, 32, generator=stream())
    statistics = band_statistics(noise * 0.5, noise)
    for band in statistics.ratios:
        assert band == pytest.approx([0.5] * 3, rel=1e-4)
    assert statistics.sd_log_samples == pytest.approx(statistics.sd_log_real, rel=1e-3)


def test_the_rms_of_white_noise_in_the_finest_band_is_known():
    """x minus the mean of its 2x2 box keeps 3/4 of the variance of white noise."""
    noise = torch.randn(50, 3, 64, 64, generator=stream()) * 0.2
    wave = torch.ones(64, 64)
    wave[:, ::2] = -1  # changes sign each column: wholly in the finest band, RMS 1
    statistics = band_statistics(noise, wave.expand(50, 3, 64, 64) * 1.0 + 0.01 * noise)
    assert statistics.ratios[0][1] == pytest.approx(0.2 * math.sqrt(0.75), rel=0.02)


def test_images_of_8_pixels_have_one_band():
    noise = torch.randn(20, 3, 8, 8, generator=stream())
    assert len(band_statistics(noise, noise).ratios) == len(sliced_wasserstein(noise, noise, stream())) == 1


def test_a_burnt_minority_shows_in_the_spread_and_the_share():
    real = pictures(100, 16, 0)
    samples = real.clone() * 0.3
    samples[:20] = 3 * torch.randn(20, 3, 16, 16, generator=stream())
    statistics = band_statistics(samples, real)
    assert statistics.sd_log_samples[0] > 2 * statistics.sd_log_real[0]
    assert statistics.burnt == pytest.approx(0.2, abs=0.02)
    share = (samples.abs() > 1.05).float().mean().item()
    assert statistics.over == pytest.approx(share, rel=1e-4)


def test_five_percent_of_impossible_pixels_is_not_yet_burnt():
    images = torch.zeros(4, 5, 16, 16)
    images.view(4, -1)[:, :64] = 2.0  # 64 of 1280 values: exactly 5 %
    real = torch.randn(4, 5, 16, 16, generator=stream())
    statistics = band_statistics(images, real)
    assert (statistics.over, statistics.burnt) == (pytest.approx(0.05), 0.0)
    images.view(4, -1)[0, 64] = 2.0
    assert band_statistics(images, real).burnt == 0.25


@pytest.mark.parametrize(
    ("samples", "real"),
    [((4, 3, 16, 16), (5, 3, 16, 16)), ((4, 3, 16, 16), (4, 3, 8, 8)), ((1, 3, 16, 16), (1, 3, 16, 16)), ((4, 3, 12, 12), (4, 3, 12, 12))],
)
def test_sets_that_cannot_be_compared_are_refused_in_one_line(samples, real):
    with pytest.raises(HiresError) as told:
        sliced_wasserstein(torch.zeros(samples), torch.zeros(real), stream())
    assert "\n" not in str(told.value)


def test_the_floor_wants_as_many_other_images():
    with pytest.raises(HiresError, match="at least 10"):
        real_floor(torch.zeros(10, 3, 8, 8), torch.zeros(9, 3, 8, 8), stream())


def test_directions_are_many_enough_that_their_choice_hardly_matters():
    a, b = pictures(200, 8, 0), 1.3 * pictures(200, 8, 1)
    first, second = (sliced_wasserstein(a, b, stream(seed))[0] for seed in (0, 1))
    assert PROJECTIONS >= 128
    assert first == pytest.approx(second, rel=0.1)
