"""Randomness as a function of (seed, stream, images seen), so no generator is ever stored or shared between ranks."""

import math
import zlib

import numpy as np
import torch
from torch import Tensor

LOW = 0xFFFFFFFF  # the lower 32 bits
IN_CACHE, IN_MEMORY = 1 << 15, 1 << 22  # blocks of four numbers that are drawn at once, on a CPU and on a GPU


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


def by_sample(seed: int, stream: str, images: int, size: int, rows: slice, device: torch.device) -> Tensor:
    """N(0, 1) noise (rows, size), fp32, drawn on `device`, for these rows of the batch after `images`.

    A sample's noise is a function of its own number in the run, images + row: it is the same in any batch and on any rank, and nobody draws
    another's. The numbers behind it are the same on every device, the noise up to the last bits of a logarithm or cosine.
    """
    key = np.random.SeedSequence([seed, zlib.crc32(stream.encode())]).generate_state(2)
    samples = torch.arange(images + rows.start, images + rows.stop, device=device)[:, None]
    blocks = torch.arange(-(-size // 4), device=device)
    at_once = max(1, (IN_CACHE if device.type == "cpu" else IN_MEMORY) // len(samples))
    parts = []
    for block in blocks.split(at_once):
        a, b, c, d = philox((block, samples, samples >> 32, torch.zeros_like(samples)), (int(key[0]), int(key[1])))
        # Box and Muller's transform; 23 bits, so that a half can be added and no logarithm is of 0
        radius = torch.stack([a, c], -1).bitwise_right_shift_(9).float().add_(0.5).mul_(2**-23).log_().mul_(-2).sqrt_()
        angle = torch.stack([b, d], -1).bitwise_right_shift_(9).float().mul_(2**-23 * 2 * math.pi)
        parts.append(torch.stack([radius * angle.cos(), radius * angle.sin()], -1).flatten(1))
    return torch.cat(parts, 1)[:, :size]


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10 (Salmon et al., SC 2011): four random numbers for each counter of four, all in [0, 2^32) as int64."""
    c0, c1, c2, c3 = counter
    for turn in range(10):
        p0, p1 = c0 * 0xD2511F53, (c2 & LOW) * 0xCD9E8D57  # modulo 2^64: the sign is a bit as the others
        c0 = ((p1 >> 32) ^ c1).bitwise_xor_((key[0] + turn * 0x9E3779B9) & LOW).bitwise_and_(LOW)
        c2 = ((p0 >> 32) ^ c3).bitwise_xor_((key[1] + turn * 0xBB67AE85) & LOW).bitwise_and_(LOW)
        c1, c3 = p1, p0
    return c0, c1 & LOW, c2, c3 & LOW


def mirror(seed: int, images: int, batch: int, rows: slice) -> Tensor:
    """Which rows of the global batch are flipped left to right: bool (rows,), each with probability one half."""
    return (torch.rand(batch, generator=generator(seed, "mirror", images)) < 0.5)[rows]


def seed_after(seed: int, attempt: int) -> int:
    """The seed of a run's latents, posterior noise and flips after `attempt` rollbacks; the run's own as long as there was none."""
    return int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0]) if attempt else seed
