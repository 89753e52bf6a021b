"""Scores of sets of features and predictions, as torch-fidelity computes them."""

import torch
from torch import Tensor

from pipelines.torchvision_cpu import torchvision  # noqa: F401 - first: torch-fidelity imports it, and beside a CPU build of torch it cannot

# isort: split
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

SPLITS = 10  # of the samples, for the Inception Score: Salimans et al. 2016
SUBSETS, SUBSET = 100, 1000  # of KID, torch-fidelity's; half of the smaller set at most, so that they differ
NEIGHBOURS = 3  # of precision and recall: Kynkäänniemi et al. 2019
ROWS = 1000  # of a table of distances at once


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance |m - m'|² + tr(C + C' - 2 (C C')^½) of the Gaussians with the means and covariances of features (N, D), (M, D)."""
    return fid_statistics_to_metric(*(fid_features_to_statistics(x.double()) for x in (a, b)), False)[KEY_METRIC_FID]


def kernel_distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    """KID: mean and standard deviation over subsets of the unbiased squared MMD of features (N, D), (M, D) by the kernel (xy/D + 1)³."""
    size = min(SUBSET, len(a) // 2, len(b) // 2)
    found = kid_features_to_metric(a, b, kid_subsets=SUBSETS, kid_subset_size=size, verbose=False)
    return found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD]


def prediction_score(logits: Tensor) -> tuple[float, float]:
    """Inception Score exp E KL(p(y|x) ‖ p(y)) of logits (N, classes): mean and standard deviation over ten parts; 1 to classes."""
    found = isc_features_to_metric(logits, SPLITS)
    return found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD]


def precision_recall(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Share of samples' features (N, D) among the real ones (M, D), and of real ones among the samples': as near as third neighbours."""
    found = prc_features_to_metric(a, b, prc_neighborhood=NEIGHBOURS, save_cpu_ram=True, verbose=False)
    return found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]


def nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Of features a (N, D) the Euclidean distance to the nearest of b (M, D), and which that is: (N,) fp64 and (N,)."""
    b = b.double()
    found = [torch.cdist(part, b).min(1) for part in a.double().split(ROWS)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])
