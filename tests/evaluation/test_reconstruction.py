"""Reconstruction error: the mean over pixels whatever the batches, after clamping."""

import pytest
import torch

from hires.errors import HiresError
from hires.evaluation.reconstruction import reconstruction_mse

IMAGES = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def flatten(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)


def restore(z: torch.Tensor) -> torch.Tensor:
    return z.unflatten(1, (3, 8, 8))


def test_a_perfect_pair_has_no_error():
    assert reconstruction_mse(restore, flatten, IMAGES, batch=3) == 0


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_the_mean_image_scores_the_variance_whatever_the_batch(batch):
    mean = IMAGES.mean(0)
    wanted = IMAGES.var(0, correction=0).mean().item()
    got = reconstruction_mse(lambda z: mean.expand(len(z), 3, 8, 8), flatten, IMAGES, batch)
    assert got == pytest.approx(wanted, rel=1e-5)


def test_values_out_of_range_are_clamped_before_they_are_compared():
    white = torch.ones(4, 1, 4, 4)
    assert reconstruction_mse(lambda z: z.unflatten(1, (1, 4, 4)) * 5, flatten, white, batch=2) == 0


def test_no_graph_is_kept():
    scale = torch.ones((), requires_grad=True)
    asked = []
    reconstruction_mse(lambda z: asked.append((z * scale).requires_grad) or restore(z), flatten, IMAGES, batch=7)
    assert asked == [False]


def test_an_empty_set_and_a_wrong_size_are_refused():
    with pytest.raises(HiresError, match="none"):
        reconstruction_mse(restore, flatten, IMAGES[:0], batch=2)
    with pytest.raises(HiresError, match="differ in size"):
        reconstruction_mse(lambda z: restore(z)[..., :4], flatten, IMAGES, batch=2)
