"""MS-SSIM between random pairs of samples, a measure of how little they vary that needs no weights, as ProGAN reports it (§5).

Wang, Simoncelli, Bovik 2003: local luminance, contrast and structure at five scales, in windows of 11x11 pixels weighted by a Gaussian; 1
is the same picture twice. As in ProGAN, windows shrink with the picture and no scale counts as less than 0.
"""

import torch
from torch import Tensor
import torch.nn.functional as F

from hires.errors import HiresError
from hires.evaluation.material import Material, in_ranks

NEEDS = ("draw",)
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first: Wang et al., §3.2
WINDOW, SIGMA = 11, 1.5
NEXT, PAIRS = 10, 10_000  # pairs a picture, and in all: ProGAN's number
K1, K2, RANGE = 0.01, 0.03, 2.0  # of the constants that keep the quotients finite; pictures are in [-1, 1]


def measure(material: Material, settings) -> dict:
    """The mean over pairs of samples, and the same over held-out pictures: samples that vary as the data do have as much."""
    found = {}
    for name, pictures in (("ms_ssim", material.samples()), ("ms_ssim_real", material.held_out())):
        values = of_neighbours(pictures, material.at_once, material.subject.device)
        found[name] = values.mean().item()
        found[f"{name}_pairs"] = len(values)
    return found


def lower(found: dict) -> float:
    """How far from the real pictures', on either side."""
    return abs(found["ms_ssim"] - found["ms_ssim_real"])


def of_neighbours(pictures: Tensor, at_once: int, device: torch.device | str = "cpu") -> Tensor:
    """MS-SSIM of each picture (N, C, r, r) in [-1, 1] with the next ones, the first following the last, (pairs,); shared among ranks.

    With ten of them, or fewer where there are few pictures or 10,000 pairs; `at_once` pairs at a time on `device`. The pictures' order must
    be random: seeds are, and so is the permutation of held-out pictures. Raises HiresError for fewer than 2.
    """
    count = len(pictures)
    if count < 2:
        raise HiresError(f"ms_ssim needs at least 2 pictures, got {count}")
    following = max(1, min(NEXT, PAIRS // count, (count - 1) // 2))

    def values(rows: range) -> Tensor:
        pair = torch.tensor(rows)
        first = pair % count
        second = (first + 1 + pair // count) % count
        return ms_ssim(pictures[first].to(device), pictures[second].to(device)).cpu()

    return in_ranks(count * following, at_once, values)


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM of pairs of pictures (N, C, r, r) in [-1, 1], (N,), 0 to 1: five scales, or as many as there are down to 1x1.

    Raises HiresError for two shapes.
    """
    if a.shape != b.shape:
        raise HiresError(f"pictures {tuple(a.shape)} and {tuple(b.shape)} differ in size")
    scales = min(len(WEIGHTS), a.shape[-1].bit_length())
    weights = [weight * sum(WEIGHTS) / sum(WEIGHTS[:scales]) for weight in WEIGHTS[:scales]]
    a, b = a.double(), b.double()  # variances are differences of squares
    value = torch.ones(len(a), dtype=torch.float64, device=a.device)
    for scale, weight in enumerate(weights):
        whole, contrast = ssim(a, b)
        value = value * (whole if scale == scales - 1 else contrast).clamp_min(0) ** weight
        if scale < scales - 1:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return value.float()


def ssim(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM of pairs of pictures (N, C, r, r) in [-1, 1] at one scale, and its part of contrast and structure, each (N,)."""
    channels, size = a.shape[1], min(WINDOW, *a.shape[2:])
    places = torch.arange(size, dtype=a.dtype, device=a.device) - (size - 1) / 2
    line = torch.exp(-(places**2) / (2 * (SIGMA * size / WINDOW) ** 2))
    line = (line / line.sum()).expand(channels, 1, 1, size)

    def local(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, line, groups=channels), line.mT, groups=channels)

    mean_a, mean_b = local(a), local(b)
    covariance = local(a * b) - mean_a * mean_b
    variances = local(a * a) - mean_a**2 + local(b * b) - mean_b**2
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    contrast = (2 * covariance + c2) / (variances + c2)
    # means are compared as numbers from 0 up, as pixels in 0..255 are
    light_a, light_b = mean_a + 1, mean_b + 1
    luminance = (2 * light_a * light_b + c1) / (light_a**2 + light_b**2 + c1)
    return (luminance * contrast).mean((1, 2, 3)), contrast.mean((1, 2, 3))
