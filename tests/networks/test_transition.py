"""The transition operator: the code's distribution, the mixing, the chain."""

import math

import pytest
from scipy import stats
import torch

from hires import networks
from hires.networks import Generator, NetworkConfig
from hires.networks.transition import Decoder, Encoder, markov_chain, mix

SMALL = NetworkConfig(latent=6, channels_base=64, channels_max=8, convs=1, image_channels=1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def operator(resolution=8):
    pair = Encoder(SMALL, resolution), Decoder(SMALL, resolution)
    for network in pair:
        networks.initialise(network, lambda name: seeded(sum(name.encode())))
    return pair


def test_the_decoder_is_the_generator_on_the_normals_distribution_function():
    """h = 2 Phi(a) - 1: a ~ N(0, 1) gives the paper's U(-1, 1)."""
    decoder, plain = operator()[1], Generator(SMALL, 8)
    plain.load_state_dict(decoder.state_dict())
    a = torch.randn(1000, 6, generator=seeded(0))
    h = torch.from_numpy(2 * stats.norm.cdf(a.numpy()) - 1).float()
    assert torch.allclose(decoder(a), plain(h), atol=1e-5)
    assert stats.kstest(h.flatten().numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_the_encoders_code_is_a_point():
    a, logvar = operator()[0](torch.randn(3, 1, 8, 8, generator=seeded(0)))
    assert a.shape == logvar.shape == (3, 6)
    assert (0.5 * logvar).exp().max() < 1e-4


def test_mixing_keeps_each_dimension_with_probability_one_half():
    a = torch.full((400, 100), 7.0)
    coin, noise = torch.randn(2, 400, 100, generator=seeded(0))
    mixed = mix(a, coin, noise)
    kept = mixed == 7.0
    n = kept.numel()
    assert kept.float().mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / n))
    assert torch.equal(mixed[~kept], noise[~kept])
    assert stats.kstest(mixed[~kept].numpy(), stats.norm.cdf).pvalue > 1e-3  # what replaces does not depend on the coin


def test_a_chain_begins_with_its_picture_and_goes_on_by_transitions():
    encoder, decoder = operator()
    x = torch.randn(3, 1, 8, 8, generator=seeded(1)).clamp(-1, 1)
    chain = markov_chain(encoder, decoder, x, 4, seeded(2))
    assert chain.shape == (3, 5, 1, 8, 8) and torch.equal(chain[:, 0], x)
    generator = seeded(2)
    for before, after in zip(chain.unbind(1)[:-1], chain.unbind(1)[1:], strict=True):
        a = encoder(before.clamp(-1, 1))[0]
        coin, noise = torch.randn(2, 3, 6, generator=generator)
        assert torch.allclose(decoder(torch.where(coin > 0, a, noise)), after, atol=1e-6)
    assert torch.equal(chain, markov_chain(encoder, decoder, x, 4, seeded(2)))
    assert (chain[:, 1:] - markov_chain(encoder, decoder, x, 4, seeded(3))[:, 1:]).abs().max() > 1e-3
