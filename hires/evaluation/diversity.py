"""Whether the samples differ from each other as much as real images do."""

from torch import Tensor

from hires.errors import HiresError
from hires.evaluation.material import Material

NEEDS = ("draw",)


def measure(material: Material, settings) -> dict:
    """The mean distance between samples over that between held-out pictures."""
    real = material.held_out()
    return {"diversity": diversity(material.samples(len(real)), real)}


def lower(found: dict) -> float:
    """How far from 1, on either side."""
    return abs(1 - found["diversity"])


def diversity(samples: Tensor, real: Tensor) -> float:
    """Mean RMS distance over all pairs of samples, divided by the same of held-out real images; 1 is right, 0 is one image for all.

    Sets (N, C, r, r) and (M, C, r, r). Blind to noise: read it beside the band scores. Raises HiresError for different image shapes, fewer
    than 2 images, or real ones that are all equal.
    """
    if samples.shape[1:] != real.shape[1:]:
        raise HiresError(f"samples {tuple(samples.shape)} and real images {tuple(real.shape)} differ in size")
    if min(len(samples), len(real)) < 2:
        raise HiresError(f"need at least 2 images a set, got {len(samples)} and {len(real)}")
    spread = mean_pairwise_rms(real)
    if spread < 1e-6:  # of values in [-1, 1]: what rounding leaves of equal ones
        raise HiresError("measure=diversity: the real pictures are all equal, so there is no spread to compare with")
    return mean_pairwise_rms(samples) / spread


def mean_pairwise_rms(images: Tensor) -> float:
    """Mean over all pairs of different images (N, ...) of the root mean square of their difference."""
    flat = images.flatten(1).double()  # the matrix form of the distance cancels badly in fp32
    squared = flat.square().sum(1)
    distances = (squared[:, None] + squared - 2 * flat @ flat.T).clamp_min(0).sqrt()
    distances.fill_diagonal_(0)  # where rounding would otherwise leave a little
    count = len(flat)
    return distances.sum().item() / (count * (count - 1)) / flat.shape[1] ** 0.5
