"""Randomness as a function of (seed, stream, images seen), so no generator is ever stored or shared between ranks."""

import zlib

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, stream: str, images: int = 0) -> torch.Generator:
    """The CPU generator of one stream ('latent', 'posterior', 'mirror', a parameter's name, ...) at one count of images seen.

    It is one of 2^32, since torch takes no more bits: every bit of all three decides which, and that of a million draws a hundred share
    their noise with another is nothing that training could see.
    """
    state = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), images]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))


def normal(seed: int, stream: str, images: int, batch: int, size: int, rows: slice) -> Tensor:
    """Rows of the global batch's N(0, 1) noise (batch, size), fp32 on the CPU.

    The whole global batch is drawn and sliced: sample i gets the same noise on any rank of any world, and a batch of 512 latents of 512
    dimensions costs about 2 ms.
    """
    return torch.randn(batch, size, generator=generator(seed, stream, images))[rows]


def mirror(seed: int, images: int, batch: int, rows: slice) -> Tensor:
    """Which rows of the global batch are flipped left to right: bool (rows,), each with probability one half."""
    return (torch.rand(batch, generator=generator(seed, "mirror", images)) < 0.5)[rows]


def seed_after(seed: int, attempt: int) -> int:
    """The seed of a run's latents, posterior noise and flips after `attempt` rollbacks; the run's own as long as there was none."""
    return int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0]) if attempt else seed
