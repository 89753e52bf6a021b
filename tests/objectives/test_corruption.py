"""Corrupted images: each of four kinds is what it is called, as many of each, and a picture depends on its own row alone."""

import torch

from hires.ground import noise
from hires.objectives.corruption import CHOICES, corrupted, shuffled, size_of

N = 400


def made(r: int = 8, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Real images, their noise and what becomes of them."""
    draw = torch.Generator().manual_seed(r)
    x = torch.rand(N, channels, r, r, generator=draw) * 2 - 1
    numbers = noise.by_sample(0, "corruption", 0, size_of(x), slice(0, N), torch.device("cpu"))
    return x, numbers, corrupted(x, numbers)


def kinds(x, numbers) -> list[torch.Tensor]:
    """The rows of each kind, by the first number's quartile."""
    return [torch.where((4 * torch.special.ndtr(numbers[:, 0])).long() == kind)[0] for kind in range(4)]


def test_every_kind_is_what_it_is_called():
    x, numbers, y = made()
    assert y.shape == x.shape and y.abs().max() <= 1
    spread = lambda of: (of - of.mean((2, 3), keepdim=True)).flatten(1)  # noqa: E731
    flat, harsh, noisy, blocks = kinds(x, numbers)
    assert all(70 < len(rows) < 130 for rows in (flat, harsh, noisy, blocks))
    # contrast: the spread about the mean shrinks by one factor, or grows where nothing is cut off
    factor = spread(y[flat]).norm(dim=1) / spread(x[flat]).norm(dim=1)
    torch.testing.assert_close(spread(y[flat]), factor[:, None] * spread(x[flat]), rtol=0, atol=1e-5)
    assert 0 <= factor.min() < 0.1 and 0.7 < factor.max() <= 0.8
    inside = y[harsh].abs() < 1
    factor = ((y - x.mean((2, 3), keepdim=True)) / (x - x.mean((2, 3), keepdim=True)))[harsh][inside]
    assert 1.249 < factor.min() < 1.4 and 2.2 < factor.max() < 2.501
    # noise: from the picture itself to noise alone, which knows nothing of it
    likeness = (spread(y[noisy]) * spread(x[noisy])).sum(1) / spread(y[noisy]).norm(dim=1) / spread(x[noisy]).norm(dim=1)
    assert likeness.min() < 0.3 and likeness.max() > 0.99
    # blocks: the picture's own pixels in other places
    assert torch.equal(y[blocks].flatten(1).sort().values, x[blocks].flatten(1).sort().values)
    assert (y[blocks] != x[blocks]).flatten(1).any(1).all()


def test_blocks_stay_whole():
    x = torch.arange(2 * 16 * 16.0).view(2, 1, 16, 16)
    order = torch.stack([torch.arange(16), torch.randperm(16, generator=torch.Generator().manual_seed(0))])
    same, other = shuffled(x, order)
    assert torch.equal(same, x[0])
    tiles = lambda one: one[0].unfold(0, 4, 4).unfold(1, 4, 4).reshape(16, 4, 4)  # noqa: E731
    assert torch.equal(tiles(other), tiles(x[1])[order[1]])


def test_the_smallest_level_and_one_channel():
    x, _, y = made(4, 1)
    assert y.shape == x.shape and y.isfinite().all()


def test_a_picture_depends_on_its_own_row_alone():
    x, numbers, y = made()
    rows = torch.randperm(N)[:7]
    assert torch.equal(corrupted(x[rows], numbers[rows]), y[rows])
    assert numbers.shape == (N, CHOICES + 3 * 8 * 8)
