"""Leaky ReLU and pixel norm as one function: its values and slopes are those of the two in turn, and it keeps less."""

import pytest
import torch
from torch import Tensor
import torch.nn.functional as F

from hires.networks import NetworkConfig
from hires.networks.generator import Generator
from hires.networks.growing import activate_and_normalise

SHAPES = [(3, 5, 4, 4), (2, 1, 2, 2), (1, 16, 1, 3)]


def in_turn(x: Tensor) -> Tensor:
    x = F.leaky_relu(x, 0.2)
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def both_ways(function, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    y = function(leaf * 1)  # in place: a leaf itself would be refused
    return y, torch.autograd.grad(y, leaf, g)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_slopes_are_those_of_the_two_in_turn(shape, layout):
    x, g = (torch.randn(shape, dtype=torch.double).to(memory_format=layout) for _ in range(2))
    x[0, :, 0, 0] = 0  # where eps alone stands below
    x[-1, :, -1, -1] *= 1e-4  # and where it counts
    for one, two in zip(both_ways(activate_and_normalise, x, g), both_ways(in_turn, x, g), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_a_view_of_another_tensor_is_fine():
    """The first level's features are a view where they have one channel."""
    x, g = torch.randn(3, 4, dtype=torch.double), torch.randn(3, 1, 2, 2, dtype=torch.double)
    for one, two in zip(
        *(both_ways(lambda h, f=f: f(h.unflatten(1, (1, 2, 2))), x, g) for f in (activate_and_normalise, in_turn)), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_it_keeps_its_result_and_a_number_a_pixel():
    x = torch.randn(2, 8, 4, 4).requires_grad_() * 1
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = activate_and_normalise(x)
    assert y.data_ptr() == x.data_ptr()
    assert sum(t.numel() for t in kept if t.data_ptr() != y.data_ptr()) == 2 * 4 * 4


def test_a_second_derivative_through_the_generator_is_refused_and_not_wrong():
    G = Generator(NetworkConfig(latent=4, channels_base=32, channels_max=8), 8)
    for p in G.parameters():
        torch.nn.init.normal_(p)
    z = torch.randn(2, 4).requires_grad_()
    (slope,) = torch.autograd.grad(G(z).sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()
