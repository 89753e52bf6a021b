"""MS-SSIM against the definition written with scipy's filters, and the measure on samples that vary or do not."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
import torch
import torch.nn.functional as F

from hires.errors import HiresError
from hires.evaluation import ms_ssim
from hires.evaluation.ms_ssim import WEIGHTS, of_neighbours


def pictures(count: int, side: int, seed: int) -> torch.Tensor:
    """Smooth coloured pictures in [-1, 1]."""
    noise = torch.rand(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    fine = 0.2 * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed + 1))
    return (F.interpolate(noise, scale_factor=4.0, mode="bilinear") * 0.8 + fine) * 2 - 1


def by_scipy(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """SSIM and its contrast part of one channel, 0 to 255, as Wang et al. define them with a Gaussian of 1.5 cut to 11x11."""

    def local(x):
        return gaussian_filter(x, 1.5, truncate=3.5, mode="constant")[5:-5, 5:-5]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ma, mb = local(a), local(b)
    contrast = (2 * (local(a * b) - ma * mb) + c2) / (local(a * a) - ma**2 + local(b * b) - mb**2 + c2)
    return ((2 * ma * mb + c1) / (ma**2 + mb**2 + c1) * contrast).mean(), contrast.mean()


def test_one_scale_is_scipys():
    a, b = pictures(2, 32, 0), pictures(2, 32, 5)
    whole, contrast = ms_ssim.ssim(a.double(), b.double())
    for i in range(2):
        pairs = zip(a[i].double().numpy(), b[i].double().numpy(), strict=True)
        wanted = np.mean([by_scipy(*((c + 1) * 127.5 for c in pair)) for pair in pairs], axis=0)
        assert (whole[i].item(), contrast[i].item()) == pytest.approx(tuple(wanted), rel=1e-6)


def test_five_scales_are_the_weighted_product():
    """At 176 pixels and more no window shrinks."""
    a = pictures(1, 176, 0)
    b = 0.7 * a + 0.3 * pictures(1, 176, 5)
    scales, x, y = [], a.double(), b.double()
    for _ in WEIGHTS:
        channels = zip(x[0].numpy(), y[0].numpy(), strict=True)
        scales.append(np.mean([by_scipy(*((c + 1) * 127.5 for c in pair)) for pair in channels], axis=0))
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    wanted = scales[-1][0] ** WEIGHTS[-1] * np.prod([contrast**w for (_, contrast), w in zip(scales[:-1], WEIGHTS, strict=False)])
    assert ms_ssim.ms_ssim(a, b).item() == pytest.approx(wanted, rel=1e-5)
    assert 0.3 < wanted < 0.98


@pytest.mark.parametrize("side", [4, 8, 16, 32])
def test_small_pictures_have_one_too_and_a_picture_is_like_itself(side):
    a, b = pictures(3, side, 0), pictures(3, side, 9)
    assert ms_ssim.ms_ssim(a, a) == pytest.approx([1, 1, 1], abs=1e-5)
    assert (ms_ssim.ms_ssim(a, b) < 0.95).all() and torch.equal(ms_ssim.ms_ssim(a, b), ms_ssim.ms_ssim(b, a))


def test_a_negative_of_a_picture_counts_as_0():
    a = pictures(1, 32, 0)
    assert ms_ssim.ms_ssim(a, -a).item() == 0


def test_samples_that_vary_less_are_more_alike():
    varied = pictures(20, 16, 0)
    collapsed = 0.9 * varied[:1] + 0.1 * varied
    assert of_neighbours(collapsed, 7).mean() > of_neighbours(varied, 7).mean() + 0.2
    assert torch.equal(of_neighbours(varied, 7), of_neighbours(varied, 20))


@pytest.mark.parametrize(("count", "pairs"), [(2, 2), (3, 3), (5, 10), (21, 210), (30, 300), (1500, 9000)])
def test_each_pair_counts_once(count, pairs, monkeypatch):
    monkeypatch.setattr(ms_ssim, "ms_ssim", lambda a, b: a[:, 0, 0, 0] * 10_000 + b[:, 0, 0, 0])  # who with whom
    found = of_neighbours(torch.arange(count).double().view(-1, 1, 1, 1), 64).long()
    together = {frozenset(divmod(pair, 10_000)) for pair in found.tolist()}
    assert len(found) == pairs and all(len(pair) == 2 for pair in together)
    assert len(together) == pairs or count == 2


def test_what_has_no_pairs_is_told():
    with pytest.raises(HiresError, match="at least 2"):
        of_neighbours(pictures(1, 16, 0), 4)
    with pytest.raises(HiresError, match="differ in size"):
        ms_ssim.ms_ssim(pictures(1, 16, 0), pictures(1, 8, 0))
