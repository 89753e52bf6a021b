"""The bounded energies: their bound, what the experts' probabilities may be, the layer below them, growing."""

import math

import pytest
import torch
from torch.distributions import Bernoulli

from hires import networks
from hires.networks import NetworkConfig
from hires.networks.expert_energy import CLIP, ExpertEnergy, GanEnergy, binary_entropy, probabilities

SMALL = NetworkConfig(latent=6, channels_base=64, channels_max=8, convs=1, image_channels=1)


def energy(kind=ExpertEnergy, resolution=16, fading=True, **options):
    network = kind(SMALL, resolution, fading, **options)
    networks.initialise(network, lambda name: torch.Generator().manual_seed(sum(name.encode())))
    return network


def images(count=8, resolution=16, size=1.0):
    return size * torch.randn(count, 1, resolution, resolution, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("experts", [1, 3, 128])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e3])
def test_energies_of_any_image_lie_between_0_and_k_ln_2(experts, size):
    """P3's energy is the sum over the experts."""
    u = energy(experts=experts, scale=experts)(images(size=size), 0.4)
    assert u.shape == (8,) and u.dtype == torch.float32
    assert (u >= 0).all() and (u <= experts * math.log(2) + 1e-4).all()


def test_the_bounds_are_reached():
    unsure, sure = torch.zeros(1, 5), torch.full((1, 5), 1e6)
    assert binary_entropy(probabilities(unsure)).sum().item() == pytest.approx(5 * math.log(2))
    assert 0 < binary_entropy(probabilities(sure)).sum().item() < 5 * 1.1e-3


def test_the_energy_is_the_mean_entropy_of_the_experts():
    network, x = energy(experts=7), images()
    p = torch.sigmoid(network(x, 0.4, scores=True).double()).clamp(1e-4, 1 - 1e-4)
    assert p.shape == (8, 7)
    assert torch.allclose(network(x, 0.4).double(), Bernoulli(probs=p).entropy().mean(1), atol=1e-6)
    assert torch.allclose(energy(experts=7, scale=8.0)(x, 0.4), 8 * network(x, 0.4), atol=1e-5)


def test_probabilities_are_clipped_as_published_and_have_no_gradient_beyond():
    scores = torch.tensor([-30.0, -1.0, 0.0, 30.0], requires_grad=True)
    p = probabilities(scores)
    assert p[0].item() == pytest.approx(CLIP) and p[3].item() == pytest.approx(1 - CLIP)
    (gradient,) = torch.autograd.grad(binary_entropy(p).sum(), scores)
    assert gradient[0] == 0 and gradient[3] == 0 and gradient[1] > 0
    assert gradient.isfinite().all()


def test_energies_are_functions_of_one_image():
    network, x = energy(), images()
    assert torch.allclose(network(x, 0.4)[:1], network(x[:1], 0.4), atol=1e-6)


@pytest.mark.parametrize("resolution", [4, 16])
def test_features_are_what_the_experts_look_at(resolution):
    network, x = energy(resolution=resolution, fading=False), images(resolution=resolution)
    features = network.features(x)
    head = network.levels["4x4"].head
    assert features.shape == (8, SMALL.channels(4))
    assert torch.allclose(features @ head.weight.T * head.scale + head.bias, network(x, scores=True), atol=1e-5)


def test_a_level_that_has_not_faded_in_changes_nothing():
    small, large = energy(resolution=8, fading=False), energy(resolution=16)
    large.load_state_dict(small.state_dict(), strict=False)
    x = torch.nn.functional.interpolate(images(resolution=8), scale_factor=2)
    assert torch.allclose(small(x[:, :, ::2, ::2]), large(x, 0.0), atol=1e-6)


def test_the_gans_energy_is_minus_the_logarithm_of_d():
    network, x = energy(GanEnergy), images()
    d = torch.sigmoid(network(x, 0.4, scores=True).double()).squeeze(1)
    assert torch.allclose(network(x, 0.4).double(), -d.log(), atol=1e-6)
