"""Noise is a function of (seed, stream, images seen, place in the global batch), and of nothing else."""

from itertools import pairwise, product

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
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


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.sampled_from([1, 2, 4]), st.integers(0, 2**40), st.integers(0, 2**31), st.integers(1, 11))
def test_a_samples_noise_is_its_own_on_any_rank_and_in_any_batch(share, world, images, seed, size):
    def drawn(first: int, rows: slice) -> torch.Tensor:
        return noise.by_sample(seed, "langevin3", first, size, rows, torch.device("cpu"))

    batch = world * share
    whole = drawn(images, slice(0, batch))
    assert whole.shape == (batch, size) and whole.dtype == torch.float32
    assert torch.equal(torch.cat([drawn(images, s) for s in rows(world, batch)]), whole)
    assert torch.equal(torch.cat([drawn(images + i, slice(0, 1)) for i in range(batch)]), whole)  # batches of one


def test_it_is_no_other_for_being_drawn_in_parts(monkeypatch):
    def drawn() -> torch.Tensor:
        return noise.by_sample(1, "data", 32, 1001, slice(2, 5), torch.device("cpu"))

    whole = drawn()
    monkeypatch.setattr(noise, "IN_CACHE", 24)
    assert torch.equal(drawn(), whole)


# known answers of the authors' Random123: counter, key, numbers
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize("counter,key,wanted", KNOWN)
def test_philox_is_its_authors(counter, key, wanted):
    counter, key = ([int(word, 16) for word in words.split()] for words in (counter, key))
    assert " ".join(f"{n.item():08x}" for n in noise.philox(tuple(torch.tensor([n]) for n in counter), tuple(key))) == wanted


def test_samples_streams_and_seeds_have_normal_noise_of_their_own():
    """Numbers and pairs beside each other; and beyond 2^32 samples."""
    keys = product((0, 1), ("data", "langevin0", "langevin1"), (0, 1, 64, 2**32, 2**33))
    draws = torch.cat([noise.by_sample(*key, 4000, slice(0, 1), torch.device("cpu")) for key in keys])
    assert torch.corrcoef(draws).fill_diagonal_(0).abs().max() < 0.11  # 7 standard deviations
    z = noise.by_sample(5, "langevin0", 7, 40_000, slice(0, 4), torch.device("cpu"))
    assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    assert kstest(((z[:, ::2] + z[:, 1::2]) / 2**0.5).flatten().numpy(), "norm").pvalue > 1e-3


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
