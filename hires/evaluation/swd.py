"""Sliced Wasserstein distances between sets of images, band by band, and how sharp the single images are.

A set of images is a float32 tensor (N, C, r, r), values about [-1, 1], r a power of two. Bands come finest first and end at 8x8.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
import torch.nn.functional as F

from hires.errors import HiresError
from hires.evaluation.material import Material

NEEDS = ("draw",)
SMALLEST = 8  # its coarsest band
PATCH = 5  # side of a descriptor, ours: ProGAN's 7x7 does not suit bands of 8x8 pixels
PATCHES_PER_IMAGE = 32  # per band, ours (ProGAN: 128 from 16,384 images)
PROJECTIONS = 128  # directions in descriptor space (ProGAN §5: 512)
COARSEST = SMALLEST  # the last band's side, ours (ProGAN: 16)
OUT_OF_RANGE = 1.05  # |x| above this cannot be a pixel, even after rounding; ours
BURNT_SHARE = 0.05  # an image with more such pixels than this is burnt; ours
QUANTILES = (0.1, 0.5, 0.9)


def measure(material: Material, settings) -> dict:
    """The distance of samples to held-out pictures, band by band, its floor between real pictures, and how sharp single samples are."""
    resolution = material.subject.resolution
    if resolution < COARSEST:
        raise HiresError(f"its bands begin at {COARSEST}x{COARSEST}, not {resolution}x{resolution}")
    real, train = material.held_out(), material.train()
    bands = band_statistics(material.drawn(len(real)), real)  # unclamped: values out of range are one of the signs
    return {
        "swd": sliced_wasserstein(material.samples(len(real)), real, torch.Generator().manual_seed(0)),
        "swd_floor": real_floor(real, train, torch.Generator().manual_seed(0)),
        "band_ratio_q10_q50_q90": bands.ratios,
        "band_sd_log": bands.sd_log_samples,
        "band_sd_log_real": bands.sd_log_real,
        "over": bands.over,
        "burnt": bands.burnt,
    }


def lower(found: dict) -> float:
    """The mean over bands, ProGAN's one number."""
    return sum(found["swd"]) / len(found["swd"])


@dataclass
class BandStatistics:
    """How sharp the single images are: averages over a set hide a burnt third beside a blurred two thirds, these do not."""

    ratios: list[list[float]]  # per band, finest first: quantiles 10/50/90 of the per-image RMS, samples over real
    sd_log_samples: list[float]  # per band: standard deviation over images of log RMS
    sd_log_real: list[float]
    over: float  # share of the samples' values with |x| > 1.05
    burnt: float  # share of samples with more than 5 % such values


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """Split images (N, C, r, r) into bands of sides r, r/2, ..., 8, finest first; they sum, each brought up to r, to the images.

    A band is the images minus their own 2x2 means (ProGAN takes a binomial filter; boxes are what the networks and the data use, and a 2x2
    blur then empties the finest band and touches no other). Raises HiresError unless r is a power of two from 8 up.
    """
    side = images.shape[-1]
    if images.ndim != 4 or images.shape[-2] != side or side < COARSEST or side & (side - 1):
        raise HiresError(f"band measures need square images of a power of two from 8 up, got {tuple(images.shape)}")
    bands = []
    while images.shape[-1] > COARSEST:
        coarser = F.avg_pool2d(images, 2)
        bands.append(images - F.interpolate(coarser, scale_factor=2.0))
        images = coarser
    return [*bands, images]


def sliced_wasserstein(samples: Tensor, real: Tensor, generator: torch.Generator) -> list[float]:
    """Sliced Wasserstein-1 distance x 1000 between the 5x5 patches of two sets (N, C, r, r), one number a band, finest first.

    Each channel of the patches is first shifted and scaled by the real set's mean and standard deviation, so a band that is too weak or too
    strong shows (ProGAN scales each set by its own, which hides exactly that); 1000 is a typical step of one real standard deviation.
    `generator` draws patches and directions. Raises HiresError for sets of different shapes or fewer than 2 images.
    """
    _require_pair(samples, real)
    scores = []
    for sampled, wanted in zip(laplacian_pyramid(samples), laplacian_pyramid(real), strict=True):
        descriptors = _patches(sampled, generator), _patches(wanted, generator)
        mean = descriptors[1].mean((0, 2), keepdim=True)
        scale = descriptors[1].std((0, 2), keepdim=True).clamp_min(1e-8)
        a, b = (((d - mean) / scale).flatten(1) for d in descriptors)
        directions = F.normalize(torch.randn(a.shape[1], PROJECTIONS, generator=generator), dim=0)
        scores.append(1000 * projected_distance(a, b, directions))
    return scores


def projected_distance(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Mean over the columns of `directions` (d, k) of the Wasserstein-1 distance between a and b (M, d) projected on it."""
    sorted_a, sorted_b = (torch.sort(directions.T @ x.T)[0] for x in (a, b))  # rows, not columns: sorting runs along memory
    return (sorted_a - sorted_b).abs().mean().item()


def real_floor(real: Tensor, other: Tensor, generator: torch.Generator) -> list[float]:
    """The score of real images (M, C, r, r) against as many of the real images `other` (N >= M): what a perfect sampler would get.

    Raises HiresError if `other` holds fewer images than `real`.
    """
    if len(other) < len(real):
        raise HiresError(f"the floor needs at least {len(real)} other real images, got {len(other)}")
    chosen = torch.randperm(len(other), generator=generator)[: len(real)]
    return sliced_wasserstein(other[chosen], real, generator)


def band_statistics(samples: Tensor, real: Tensor) -> BandStatistics:
    """Per-image RMS of the two finest bands (of 8x8 images: of the one band) and the share of impossible pixels, samples against real.

    Sets (N, C, r, r) and (M, C, r, r). Raises HiresError for different image shapes or fewer than 2 images.
    """
    _require_pair(samples, real, same_count=False)
    sampled, wanted = ([band.square().mean((1, 2, 3)).sqrt() for band in laplacian_pyramid(images)[:2]] for images in (samples, real))
    quantiles = torch.tensor(QUANTILES)
    over = (samples.abs() > OUT_OF_RANGE).float().mean((1, 2, 3))
    return BandStatistics(
        ratios=[(torch.quantile(s, quantiles) / torch.quantile(w, quantiles)).tolist() for s, w in zip(sampled, wanted, strict=True)],
        sd_log_samples=[s.log().std().item() for s in sampled],
        sd_log_real=[w.log().std().item() for w in wanted],
        over=over.mean().item(),
        burnt=(over > BURNT_SHARE).float().mean().item(),
    )


def _require_pair(samples: Tensor, real: Tensor, same_count: bool = True) -> None:
    if samples.shape[1:] != real.shape[1:] or (same_count and len(samples) != len(real)):
        raise HiresError(f"samples {tuple(samples.shape)} and real images {tuple(real.shape)} differ in size")
    if min(len(samples), len(real)) < 2:
        raise HiresError(f"need at least 2 images a set, got {len(samples)} and {len(real)}")


def _patches(band: Tensor, generator: torch.Generator) -> Tensor:
    """(N, C, s, s) -> (N * PATCHES_PER_IMAGE, C, 25), places drawn for each image."""
    count, channels = band.shape[:2]
    windows = band.unfold(2, PATCH, 1).unfold(3, PATCH, 1)
    places = windows.shape[2]
    images = torch.arange(count)[:, None]
    rows, columns = (torch.randint(places, (count, PATCHES_PER_IMAGE), generator=generator) for _ in range(2))
    return windows[images, :, rows, columns].reshape(count * PATCHES_PER_IMAGE, channels, PATCH * PATCH)
