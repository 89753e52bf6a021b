"""Convolutions that resample: the same numbers as resampling and convolving in turn, and networks of before the setting."""

import pytest
import torch
from torch import nn
import torch.nn.functional as F

from hires import networks
from hires.networks import NetworkConfig
from hires.networks.growing import DownsamplingConv2d, EqualizedConv2d, UpsamplingConv2d
from hires.training.settings import with_later_settings

DOWN, UP = nn.AvgPool2d(2), nn.Upsample(scale_factor=2)


IN_TURN = [(UpsamplingConv2d, lambda conv, x: conv(UP(x))), (DownsamplingConv2d, lambda conv, x: DOWN(conv(x)))]


@pytest.mark.parametrize("fused,turn", IN_TURN)
def test_one_convolution_gives_what_two_steps_give(fused, turn):
    """In fp64 to 1e-14 of the largest: outputs, gradients of both and the gradient of a gradient penalty."""
    torch.manual_seed(0)
    one, two = fused(5, 7, 3).double(), EqualizedConv2d(5, 7, 3).double()
    for name, parameter in two.named_parameters():
        nn.init.normal_(parameter)
        one.get_parameter(name).data.copy_(parameter.data)
    x = torch.randn(2, 5, 8, 8, dtype=torch.float64)

    def all_of_it(function, conv):
        leaf = x.clone().requires_grad_()
        out = function(leaf)
        (slope,) = torch.autograd.grad(out.sin().sum(), leaf, create_graph=True)
        return [out, slope, *torch.autograd.grad(slope.square().sum() + out.sum(), list(conv.parameters()))]

    for left, right in zip(all_of_it(one, one), all_of_it(lambda v: turn(two, v), two), strict=True):
        assert (left - right).abs().max() < 1e-14 * max(1.0, right.abs().max().item())


def test_a_network_of_before_the_setting_keeps_its_function():
    """A manifest without network.downsampling is read as separate: convolution, activation, mean."""
    now = {"latent": 8, "channels_base": 64, "channels_max": 16}
    then = NetworkConfig(**with_later_settings({"network": now})["network"])
    assert then.downsampling == "separate"
    energy = networks.build(then, "energy", 8, False, "identity")
    networks.initialise(energy, lambda name: torch.Generator().manual_seed(len(name)))
    level, top, x = energy.levels["8x8"], energy.levels["4x4"], torch.randn(3, 3, 8, 8)

    def convolved(layer, h):
        return F.leaky_relu(F.conv2d(h, layer.weight * layer.scale, layer.bias, padding="same"), 0.2)

    h = F.avg_pool2d(convolved(level.conv1, convolved(level.conv0, convolved(level.from_rgb, x))), 2)
    h = F.leaky_relu(top.dense(convolved(top.conv0, h).flatten(1)), 0.2)
    torch.testing.assert_close(energy(x), top.head(h).squeeze(1))
