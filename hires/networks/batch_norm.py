"""Batch norm in fp32 under any precision, and its statistics for use: of the averaged weights on what a network is given, not training's.

Running statistics mix what training feeds a generator (latents of the prior and of posteriors) and belong to weights that have moved on.
The papers' code draws its pictures with the statistics of a batch; here a pass over one large batch sets them once, so that a picture is a
function of its own latent.

In a round on several ranks the statistics are those of the global batch (`over_ranks`), so that another number of ranks changes nothing but
rounding. torch.nn.SyncBatchNorm does as much, on GPUs alone.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
import torch.distributed as dist
import torch.nn.functional as F

LATENTS = 512  # of the prior, in the pass over a generator


class _Mixed(nn.modules.batchnorm._BatchNorm):
    """Gains and biases in the type of the statistics, which stay fp32 beside bf16 weights: torch takes no others for them."""

    ranks = 1  # processes whose rows, as many of each, make up the batch

    def forward(self, h: Tensor) -> Tensor:
        self._check_input_dim(h)
        if self.training:
            self.num_batches_tracked.add_(1)
        gain, bias = self.weight.to(self.running_mean.dtype), self.bias.to(self.running_mean.dtype)
        if self.training and self.ranks > 1:
            y, mean, variance = _OverRanks.apply(h, gain, bias, self.eps, self.ranks)
            n = self.ranks * h.numel() // h.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (n / (n - 1)), self.momentum)
            return y
        return F.batch_norm(h, self.running_mean, self.running_var, gain, bias, self.training, self.momentum, self.eps)


class _OverRanks(torch.autograd.Function):
    """Batch norm over the rows of all ranks, with gradients as if each rank's loss were summed: the engines average them afterwards."""

    @staticmethod
    def forward(ctx, h: Tensor, gain: Tensor, bias: Tensor, eps: float, ranks: int) -> tuple[Tensor, Tensor, Tensor]:
        x = h.to(gain.dtype)
        mean = _mean_over_ranks(_per_channel(x), ranks)
        variance = _mean_over_ranks(_per_channel((x - _wide(mean, x)).square()), ranks)  # not E x^2 - mean^2, which cancels
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(h, gain, mean, scale)
        ctx.ranks = ranks
        ctx.mark_non_differentiable(mean, variance)
        y = torch.addcmul(_wide(bias - mean * scale * gain, x), x, _wide(scale * gain, x))
        return y.to(h.dtype), mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, of_y: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        h, gain, mean, scale = ctx.saved_tensors
        g = of_y.to(gain.dtype)
        normal = (h.to(gain.dtype) - _wide(mean, h)) * _wide(scale, h)
        here = torch.stack([_per_channel(g), _per_channel(g * normal)])
        n = h.numel() // h.shape[1]
        everywhere = _mean_over_ranks(here.clone(), ctx.ranks)
        of_h = _wide(scale * gain, h) * (g - _wide(everywhere[0], h) - normal * _wide(everywhere[1], h))
        return of_h.to(h.dtype), n * here[1], n * here[0], None, None


def _per_channel(x: Tensor) -> Tensor:
    return x.mean([0, *range(2, x.dim())])


def _wide(channels: Tensor, x: Tensor) -> Tensor:
    return channels.view(1, -1, *[1] * (x.dim() - 2))


def _mean_over_ranks(x: Tensor, ranks: int) -> Tensor:
    dist.all_reduce(x)
    return x / ranks


class BatchNorm1d(_Mixed, nn.BatchNorm1d):
    """(B, C) -> (B, C), normalised over the batch."""


class BatchNorm2d(_Mixed, nn.BatchNorm2d):
    """(B, C, r, r) -> (B, C, r, r), normalised over the batch and the plane."""


def layers(network: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """A network's layers of batch norm; most networks have none."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


@contextmanager
def over_ranks(networks: Iterable[nn.Module], ranks: int) -> Iterator[None]:
    """Inside, networks that train take the statistics of all ranks' rows together; each forward and backward pass is a collective."""
    found = [layer for network in networks for layer in layers(network)]
    for layer in found:
        layer.ranks = ranks
    try:
        yield
    finally:
        for layer in found:
            layer.ranks = 1


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
