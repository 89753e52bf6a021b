"""Spectral normalisation beside torch's own, in fp32 and of bf16 weights."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from hires.networks.spectral import AtMostOne, Normalised, normalise


def layer(norm: type | None, dtype: torch.dtype, scale: float = 3.0) -> nn.Conv2d:
    """A convolution of weights N(0, scale^2), alike for all; `norm` None: torch's own; read in training until its norm is exact."""
    torch.manual_seed(0)
    made = nn.Conv2d(5, 7, 3)
    nn.init.normal_(made.weight, std=scale)
    made = normalise(made, norm) if norm else spectral_norm(made)
    made.parametrizations.weight.original.data = made.parametrizations.weight.original.data.to(dtype)  # DeepSpeed leaves the vectors
    for _ in range(100):
        made.weight  # noqa: B018 - reading it is a step of the power iteration
    return made


def norm_of(weight: torch.Tensor) -> float:
    return torch.linalg.matrix_norm(weight.detach().float().flatten(1), 2).item()


def test_in_fp32_it_is_torchs_own():
    ours, theirs = layer(Normalised, torch.float32), layer(None, torch.float32)
    assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize("norm", [Normalised, AtMostOne])
def test_a_bf16_weight_has_norm_one_to_its_rounding_and_the_gradient_of_fp32(norm):
    low, full = layer(norm, torch.bfloat16), layer(norm, torch.float32)
    assert low.weight.dtype == torch.bfloat16 and norm_of(low.weight) == pytest.approx(1, abs=4e-3)
    force = torch.randn_like(full.weight)
    gradients = []
    for one in (low, full):
        (one.weight * force.to(one.weight.dtype)).sum().backward()
        gradients.append(one.parametrizations.weight.original.grad.float())
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[1].norm()


def test_a_small_weight_stays_where_only_large_ones_are_divided():
    for dtype in (torch.float32, torch.bfloat16):
        small = layer(AtMostOne, dtype, scale=0.01)
        assert torch.equal(small.weight, small.parametrizations.weight.original)
