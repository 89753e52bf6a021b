"""Batch norm's statistics for use: those of the averaged weights on what a network is given, not the running ones of training.

Running statistics mix what training feeds a generator (latents of the prior and of posteriors) and belong to weights that have moved on.
The papers' code draws its pictures with the statistics of a batch; here a pass over one large batch sets them once, so that a picture is a
function of its own latent.
"""

import torch
from torch import Tensor, nn

LATENTS = 512  # of the prior, in the pass over a generator


def layers(network: nn.Module) -> list[nn.BatchNorm2d]:
    """A network's layers of batch norm; most networks have none."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@torch.no_grad()
def measure(network: nn.Module, inputs: Tensor) -> None:
    """Set a network's statistics to those of one batch of inputs; everything else of it stays as it is."""
    found = layers(network)
    before = [(layer.training, layer.momentum) for layer in found]
    for layer in found:
        layer.training, layer.momentum = True, 1.0
    network(inputs)
    for layer, (training, momentum) in zip(found, before, strict=True):
        layer.training, layer.momentum = training, momentum


def prior(latent: int) -> Tensor:
    """The latents (512, latent), N(0, I), that a generator's statistics are of; the same ones each time."""
    return torch.randn(LATENTS, latent, generator=torch.Generator().manual_seed(0))
