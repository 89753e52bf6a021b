"""Real images made improbable, in one of four ways each: fakes that show an energy where no images lie.

A generator's samples raise the energy only where it draws; noise, flat and shuffled pictures stay as low as they start. Such images
among the fakes of a GAN's critic are known as negative data augmentation (Sinha et al., ICLR 2021).
"""

import torch
from torch import Tensor

from hires.objectives.replay import uniform

GRID = 4  # blocks a side; at 4x4 a block is a pixel
CHOICES = 2 + GRID**2  # numbers a picture beside the noise: which way, how far, and the blocks' order


def size_of(x: Tensor) -> int:
    """How many N(0, 1) numbers an image of x (B, C, r, r) takes."""
    return CHOICES + x[0].numel()


def corrupted(x: Tensor, numbers: Tensor) -> Tensor:
    """Images (B, C, r, r) in [-1, 1] of another contrast about their mean (x0 to .8, or x1.25 to 2.5), or mixed with noise, or shuffled.

    `numbers`: N(0, 1), (B, size_of(x)); a picture depends on its own row alone. As many of each kind, on average.
    """
    numbers = uniform(numbers)
    which, strength = numbers[:, 0], numbers[:, 1, None, None, None]
    mean = x.mean((2, 3), keepdim=True)
    flat = mean + 0.8 * strength * (x - mean)
    harsh = (mean + (1.25 + 1.25 * strength) * (x - mean)).clamp(-1, 1)
    noisy = torch.lerp(x, 2 * numbers[:, CHOICES:].view_as(x) - 1, strength)
    kinds = torch.stack([flat, harsh, noisy, shuffled(x, numbers[:, 2:CHOICES].argsort(1))])
    kind = (4 * which).long().clamp_(max=3)
    return kinds.gather(0, kind[None, :, None, None, None].expand(1, *x.shape))[0]


def shuffled(x: Tensor, order: Tensor) -> Tensor:
    """Images (B, C, r, r) whose 4x4 blocks stand in another order (B, 16)."""
    B, C, r, _ = x.shape
    side = r // GRID
    blocks = x.unflatten(3, (GRID, side)).unflatten(2, (GRID, side)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    blocks = blocks.gather(1, order[:, :, None, None, None].expand_as(blocks))
    return blocks.unflatten(1, (GRID, GRID)).permute(0, 3, 1, 4, 2, 5).reshape(B, C, r, r)
