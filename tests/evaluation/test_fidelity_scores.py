"""Scores of features against closed forms, simulation, and counting by hand."""

import math

import numpy as np
import pytest
from scipy.linalg import sqrtm
import torch

from hires.evaluation.scores import frechet, kernel_distance, precision_recall, prediction_score


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exactly(mean: torch.Tensor, root: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Points whose mean is `mean` and whose covariance is root @ root.T, not about but exactly."""
    x = torch.randn(count, len(mean), generator=stream(seed), dtype=torch.float64)
    x = x - x.mean(0)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (count - 1)), x.T, upper=False).T
    return x @ root.T + mean


def test_the_frechet_distance_of_gaussians_with_the_same_axes():
    """|m - m'|² + sum (s - s')²."""
    m, s = torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([1.0, 0.5, 3.0]).double()
    n, t = torch.tensor([0.5, 1.0, 1.0]).double(), torch.tensor([2.0, 0.5, 1.0]).double()
    found = frechet(exactly(m, s.diag(), 50, 0), exactly(n, t.diag(), 70, 1))
    assert found == pytest.approx(0.25 + 9 + 1 + 0 + 4, rel=1e-9)


def test_the_frechet_distance_of_gaussians_with_other_axes():
    """The closed form with scipy's root of a matrix."""
    roots = [torch.randn(5, 5, generator=stream(seed), dtype=torch.float64) for seed in (0, 1)]
    means = [torch.randn(5, generator=stream(seed), dtype=torch.float64) for seed in (2, 3)]
    a, b = ((root @ root.T).numpy() for root in roots)
    wanted = (means[0] - means[1]).square().sum().item() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet(*(exactly(mean, root, 60, i) for i, (mean, root) in enumerate(zip(means, roots, strict=True)))) == pytest.approx(wanted)


def kids(shift: float, features: int) -> tuple[float, float]:
    """Mean and standard error of 80 kernel distances between 40 points of N(0, I) and 40 of N(shift, I)."""
    noise = stream(0)
    found = [
        kernel_distance(torch.randn(40, features, generator=noise), torch.randn(40, features, generator=noise) + shift)[0]
        for _ in range(80)
    ]
    return float(np.mean(found)), float(np.std(found) / math.sqrt(len(found)))


def test_the_kernel_distance_of_one_distribution_to_itself_is_0_on_average():
    mean, error = kids(0.0, 8)
    assert abs(mean) < 3 * error
    assert error < 0.02  # a biased estimate would be (8 + 1)/8-ish over 20 a subset: E k(x, x)/n, far above


def test_the_kernel_distance_of_shifted_numbers_is_their_closed_form():
    """In one dimension (xy + 1)³ tells moments apart: 3 m1² + 3 m2² + m3² of their differences; N(s, 1) has s, s² + 1, s³ + 3s."""
    shift = 0.5
    mean, error = kids(shift, 1)
    wanted = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    assert abs(mean - wanted) < 3 * error and error < 0.2 * wanted


def test_the_score_of_known_predictions():
    same = torch.tensor([[2.0, -1.0, 0.5]]).expand(200, 3)
    assert prediction_score(same) == (pytest.approx(1), pytest.approx(0, abs=1e-9))
    sure = 100 * torch.eye(4).repeat(5000, 1)
    assert prediction_score(sure)[0] == pytest.approx(4, rel=2e-3)
    p = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log().repeat(10_000, 1)
    assert prediction_score(p)[0] == pytest.approx(math.exp(0.9 * math.log(1.8) + 0.1 * math.log(0.2)), rel=2e-3)


def test_precision_and_recall_of_clouds():
    left = torch.randn(50, 3, generator=stream(0))
    right = torch.randn(50, 3, generator=stream(1)) + 100
    both = torch.cat([left, right])
    assert precision_recall(left, both) == (1, 0.5)  # all of them real, half of the real ones drawn
    assert precision_recall(both, left) == (0.5, 1)
    assert precision_recall(left, right) == (0, 0)


def test_precision_and_recall_as_counted():
    a, b = (torch.randn(40, 2, generator=stream(seed)) + 0.3 * seed for seed in (0, 1))

    def covered(points: np.ndarray, by: np.ndarray) -> float:
        own = np.sort(np.linalg.norm(by[:, None] - by, axis=-1), 1)[:, 3]  # 0 is the point itself
        return float((np.linalg.norm(points[:, None] - by, axis=-1) <= own).any(1).mean())

    found = precision_recall(a, b)
    assert found == (pytest.approx(covered(a.numpy(), b.numpy())), pytest.approx(covered(b.numpy(), a.numpy())))
    assert 0.3 < found[0] < 1 and found[0] != found[1]
