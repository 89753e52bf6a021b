"""Noise is a function of (seed, stream, images seen, place in the global batch), and of nothing else."""

from itertools import pairwise, product

from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
import torch

from hires.ground import noise
from hires.ground.distributed import World


def rows(world: int, batch: int) -> list[slice]:
    return [World(rank, world, rank, torch.device("cpu")).rows(batch) for rank in range(world)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 10**9), st.integers(0, 2**31))
def test_ranks_slices_are_the_whole_batch(world, share, images, seed):
    batch = world * share
    assert [i for s in rows(world, batch) for i in range(batch)[s]] == list(range(batch))
    parts = [noise.normal(seed, "latent", images, batch, 5, s) for s in rows(world, batch)]
    assert all(len(p) == share for p in parts)
    assert torch.equal(torch.cat(parts), noise.normal(seed, "latent", images, batch, 5, slice(None)))
    flips = [noise.mirror(seed, images, batch, s) for s in rows(world, batch)]
    assert torch.equal(torch.cat(flips), noise.mirror(seed, images, batch, slice(None)))


def test_noise_does_not_depend_on_what_was_drawn_before():
    torch.manual_seed(1)
    a = noise.normal(3, "latent", 96, 8, 4, slice(None))
    torch.manual_seed(2)
    noise.normal(3, "posterior", 96, 8, 4, slice(None)), torch.randn(1000)
    state = torch.get_rng_state()
    assert torch.equal(noise.normal(3, "latent", 96, 8, 4, slice(None)), a)
    assert torch.equal(torch.get_rng_state(), state)  # and leaves the global generator alone


def test_every_seed_stream_and_count_of_images_has_noise_of_its_own():
    streams = ("latent", "posterior", "latent1", "posterior1", "latent2", "mirror", "grid", "generator/levels.4x4.conv0.weight")
    draws = [torch.randn(64, generator=noise.generator(*key)) for key in product((0, 1), streams, (0, 1, 32, 10**7))]
    # between independent streams of 64 numbers a correlation of 0.75 has a chance of about 1e-12
    correlations = torch.corrcoef(torch.stack(draws)).fill_diagonal_(0)
    assert correlations.abs().max() < 0.75
    assert len({d[0].item() for d in draws}) == len(draws)


def test_latents_are_standard_normal_and_flips_are_fair():
    z = torch.cat([noise.normal(0, "latent", images, 64, 16, slice(None)) for images in range(0, 64 * 20, 64)])
    assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    flips = torch.cat([noise.mirror(0, images, 64, slice(None)) for images in range(0, 64 * 100, 64)])
    assert flips.dtype == torch.bool and abs(flips.float().mean() - 0.5) < 0.03
    assert not all(torch.equal(a, b) for a, b in pairwise(flips.view(100, 64)))
