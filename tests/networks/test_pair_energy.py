"""The energy of pairs: it grows without a step, sees one pair alone, needs both of its inputs, and is bounded where it says so."""

import re
import zlib

import pytest
import torch

from hires import networks
from hires.networks import NetworkConfig
from hires.networks.pair_energy import PairEnergy

FORMS = ("identity", "softplus")
CONFIG = NetworkConfig(latent=8, channels_base=256, channels_max=32)


def stream(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def make(resolution: int, fading: bool = False, form: str = "identity", config: NetworkConfig = CONFIG) -> PairEnergy:
    """With random biases too: zero ones would hide a bias that the wrong path uses."""
    network = PairEnergy(config, resolution, fading, form)
    networks.initialise(network, stream)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=stream(name)))
    return network.eval()


def pairs(resolution: int, count: int = 5, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, channels, resolution, resolution, generator=stream(f"x{resolution}"))
    return x, torch.randn(count, 8, generator=stream("z"))


@torch.no_grad()
def energies(network: PairEnergy, x: torch.Tensor, z: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    return network(x, z, alpha)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("resolution", [8, 32])
def test_an_added_level_changes_nothing_at_alpha_0_and_replaces_the_old_path_at_alpha_1(resolution, form):
    before, fading, stable = make(resolution // 2, False, form), make(resolution, True, form), make(resolution, False, form)
    x, z = pairs(resolution)
    box_means = x.reshape(5, 3, resolution // 2, 2, resolution // 2, 2).mean((3, 5))
    start, middle, end = (energies(fading, x, z, alpha) for alpha in (0.0, 0.5, 1.0))
    assert (start - energies(before, box_means, z)).abs().max() < 1e-5
    assert (end - energies(stable, x, z)).abs().max() < 1e-5
    assert (middle - start).abs().max() > 1e-3 and (middle - end).abs().max() > 1e-3
    assert torch.equal(energies(stable, x, z, 0.3), energies(stable, x, z, 1.0))


@pytest.mark.parametrize("form", FORMS)
def test_a_pair_is_seen_alone(form):
    network, (x, z) = make(16, form=form), pairs(16)
    together = energies(network, x, z)
    assert together.shape == (5,) and (form == "identity" or (together > 0).all())
    alone = torch.cat([energies(network, x[i : i + 1], z[i : i + 1]) for i in range(5)])
    assert (together - alone).abs().max() < 1e-5
    others = torch.cat([x[:1], 50 * x[1:] + 10]), torch.cat([z[:1], 9 * z[1:]])
    assert (energies(network, *others)[0] - alone[0]).abs() < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_it_judges_the_pair_and_not_its_halves(form):
    """No sum f(x) + g(z) has a second difference over two images and two latents (bounded layers start with a small one)."""
    network, (x, z) = make(16, form=form), pairs(16)
    u = [[energies(network, x[i : i + 1], z[j : j + 1]).item() for j in (0, 1)] for i in (0, 1)]
    assert abs(u[0][0] + u[1][1] - u[0][1] - u[1][0]) > (1e-3 if form == "identity" else 3e-6)  # ten times rounding
    x, z = x.requires_grad_(), z.requires_grad_()
    g_x, g_z = torch.autograd.grad(network(x, z).sum(), (x, z))
    assert (g_x.flatten(1).norm(dim=1) > 1e-4).all() and (g_z.norm(dim=1) > 1e-4).all()


@torch.no_grad()
def test_softplus_bounds_every_layers_spectral_norm_but_the_last():
    network = make(16, form="softplus").train()
    for _ in range(50):  # each training pass turns the singular vectors further
        network(torch.zeros(1, 3, 16, 16), torch.zeros(1, 8))
    checked = 0
    for name, module in network.named_modules():
        if "parametrizations" in name or not hasattr(module, "scale"):
            continue
        largest = torch.linalg.matrix_norm(module.weight.flatten(1), 2).item()
        if name.endswith("head.head"):
            assert largest > 1.5  # N(0, 1) weights, free
        else:
            assert 0.9 < largest < 1.02, name
            checked += 1
    # from RGB, two convolutions on 16 and 8, the 4x4 level's convolution and dense layer; the towers' ends, two of the latent's, the joint
    assert checked == 1 + 2 * 2 + 2 + 1 + 3 + 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fading", [False, True])
def test_names_carry_the_resolution_and_every_parameter_is_used(fading, form):
    """A name's level is its group of Adam's; ZeRO waits for every parameter's gradient."""
    network = make(16, fading, form)
    found = {name for name, _ in network.named_parameters()}
    assert all(re.match(r"levels\.(\d+)x\1\.", name) for name in found)
    smaller = {name for name, _ in make(8, False, form).named_parameters()}
    assert all("16x16" in name for name in found - smaller)
    network(*pairs(16), 0.4).square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


@pytest.mark.parametrize("form", FORMS)
def test_a_level_starts_the_same_whenever_it_is_added(form):
    reference = make(32, True, form).state_dict()
    torch.manual_seed(99)
    for resolution, fading in [(4, False), (8, True), (32, False)]:
        state = make(resolution, fading, form).state_dict()
        shared = state.keys() & reference.keys()
        assert len(shared) > len(state) / 2 and all(torch.equal(state[name], reference[name]) for name in shared)


@pytest.mark.parametrize("channels", [1, 3])
def test_bf16_weights_give_fp32_energies(channels):
    config = NetworkConfig(latent=8, channels_base=64, channels_max=8, image_channels=channels)
    network, (x, z) = make(8, config=config), pairs(8, channels=channels)
    exact = energies(network, x, z)
    rounded = energies(network.bfloat16(), x, z)
    assert rounded.dtype == torch.float32 and 0 < (rounded - exact).abs().max() < 0.1 * exact.abs().max()
