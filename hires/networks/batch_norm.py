"""Batch norm in fp32 under any precision, and its statistics for use: of the averaged weights on what a network is given, not training's.

Running statistics mix what training feeds a generator (latents of the prior and of posteriors) and belong to weights that have moved on.
The papers' code draws its pictures with the statistics of a batch; here a pass over one large batch sets them once, so that a picture is a
function of its own latent.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
import torch.nn.functional as F

LATENTS = 512  # of the prior, in the pass over a generator


class _Mixed(nn.modules.batchnorm._BatchNorm):
    """Gains and biases in the type of the statistics, which stay fp32 beside bf16 weights: torch takes no others for them."""

    def forward(self, h: Tensor) -> Tensor:
        self._check_input_dim(h)
        if self.training:
            self.num_batches_tracked.add_(1)
        gain, bias = self.weight.to(self.running_mean.dtype), self.bias.to(self.running_mean.dtype)
        return F.batch_norm(h, self.running_mean, self.running_var, gain, bias, self.training, self.momentum, self.eps)


class BatchNorm1d(_Mixed, nn.BatchNorm1d):
    """(B, C) -> (B, C), normalised over the batch."""


class BatchNorm2d(_Mixed, nn.BatchNorm2d):
    """(B, C, r, r) -> (B, C, r, r), normalised over the batch and the plane."""


def layers(network: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """A network's layers of batch norm; most networks have none."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


@torch.no_grad()
def measure(network: nn.Module, inputs: Tensor) -> None:
    """Set a network's statistics to those of one batch of inputs; everything else of it stays as it is."""
    found = layers(network)
    before = [(layer.training, layer.momentum, layer.num_batches_tracked.clone()) for layer in found]
    for layer in found:
        layer.training, layer.momentum = True, 1.0
    network(inputs)
    for layer, (training, momentum, count) in zip(found, before, strict=True):
        layer.training, layer.momentum = training, momentum
        layer.num_batches_tracked.copy_(count)  # a count of training's batches: a run that was measured more often is no other run


@contextmanager
def of_the_batch(*networks: nn.Module) -> Iterator[None]:
    """Inside, networks in eval mode take the statistics of each batch they see; their own are left as they are."""
    found = [layer for network in networks for layer in layers(network) if not layer.training]
    before = [layer.momentum for layer in found]
    for layer in found:
        layer.training, layer.momentum = True, 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(found, before, strict=True):
            layer.training, layer.momentum = False, momentum


def prior(latent: int) -> Tensor:
    """The latents (512, latent), N(0, I), that a generator's statistics are of; the same ones each time."""
    return torch.randn(LATENTS, latent, generator=torch.Generator().manual_seed(0))
