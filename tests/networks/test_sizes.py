"""Parameter counts, names and shapes of the presets, one and three channels, and the published 32x32 networks."""

from itertools import pairwise
import re

import pytest
import torch

from hires import config as configuration
from hires import networks
from hires.networks import NetworkConfig

PLAYERS = ("generator", "energy", "inference")


def preset(name: str) -> NetworkConfig:
    return configuration.load("plan", [f"network={name}"]).network


def count(config: NetworkConfig, player: str, resolution: int = 1024) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in networks.build(config, player, resolution).parameters())


def progan_generator(channels: list[int], latent: int = 512) -> int:
    """Weights and biases of ProGAN's generator (its table 2), written out: 4x4 dense and convolution, two convolutions a level, to RGB."""
    total = latent * channels[0] * 16 + channels[0] * 16 + 9 * channels[0] ** 2 + channels[0]
    for below, here in pairwise(channels):
        total += 9 * below * here + here + 9 * here**2 + here
    return total + 3 * channels[-1] + 3


def test_base_has_progans_parameters_at_1024():
    base = preset("base")
    channels = [512, 512, 512, 512, 256, 128, 64, 32, 16]
    assert [base.channels(4 * 2**i) for i in range(9)] == channels and base.latent == 512
    assert count(base, "generator") == progan_generator(channels)
    assert f"{count(base, 'generator') / 1e6:.2f}" in ("23.08", "23.09")
    assert abs(count(base, "generator") / 23.08e6 - 1) < 1e-3
    assert abs(count(base, "energy") / 23.09e6 - 1) < 1e-3  # a critic; without minibatch deviation it has 9 * 512 weights fewer
    # the inference model is a critic with a head of 2 d outputs
    assert count(base, "inference") - count(base, "energy") == (2 * 512 - 1) * (512 + 1)


def test_xl_is_about_eight_times_base_and_slim_is_small():
    size = {name: sum(count(preset(name), player) for player in PLAYERS) for name in ("base", "xl", "slim")}
    assert 7 < size["xl"] / size["base"] < 9
    assert size["slim"] < size["base"] / 20


@pytest.mark.parametrize("form", ["identity", "softplus"])
@pytest.mark.parametrize("player", PLAYERS)
def test_names_carry_the_resolution(player, form):
    config = NetworkConfig(latent=8, channels_base=64, channels_max=8)
    names = {}
    for resolution, fading in [(8, False), (16, True), (16, False)]:
        found = [name for name, _ in networks.build(config, player, resolution, fading, form).named_parameters()]
        levels = [re.match(r"levels\.(\d+)x\1\.", name) for name in found]
        assert all(levels), [name for name, level in zip(found, levels, strict=True) if not level]
        assert {int(level[1]) for level in levels} == {4 * 2**i for i in range(resolution.bit_length() - 2)}
        names[resolution, fading] = set(found)
    # growing adds the new level alone; becoming stable drops the old projection alone
    assert all("16x16" in name for name in names[16, True] - names[8, False])
    assert names[8, False] <= names[16, True]
    assert all(re.search(r"levels\.8x8\.(to|from)_rgb\.", name) for name in names[16, True] - names[16, False])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind,resolution", [("growing", 4), ("growing", 16), ("dcgan32", 32)])
def test_one_and_three_channels(kind, resolution, channels):
    config = NetworkConfig(kind=kind, latent=8, channels_base=64, channels_max=8, image_channels=channels)
    G, U, I = (networks.build(config, player, resolution) for player in PLAYERS)  # noqa: E741
    for network in (G, U, I):
        networks.initialise(network, lambda name: torch.Generator().manual_seed(len(name)))
    x = G(torch.randn(3, 8))
    assert x.shape == (3, channels, resolution, resolution) and x.dtype == torch.float32
    assert U(x).shape == (3,)
    mu, logvar = I(x)
    assert mu.shape == logvar.shape == (3, 8)


@pytest.mark.parametrize("player", PLAYERS)
def test_bf16_weights_give_fp32_outputs(player):
    network = networks.build(NetworkConfig(latent=8, channels_base=64, channels_max=8), player, 8)
    networks.initialise(network, lambda name: torch.Generator().manual_seed(len(name)))
    network.bfloat16()
    out = network(torch.randn(2, 8) if player == "generator" else torch.randn(2, 3, 8, 8))
    assert all(t.dtype == torch.float32 for t in (out if isinstance(out, tuple) else (out,)))


@pytest.mark.parametrize("resolution", [0, 2, 12, 33])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match="power of two"):
        networks.build(NetworkConfig(), "generator", resolution)


# the published networks: (kernel, in, out) of each convolution; transposed ones in G
DCGAN = {
    "generator": [(4, 100, 512), (4, 512, 512), (4, 512, 256), (4, 256, 128), (3, 128, 3)],
    "energy": [(3, 3, 64), (4, 64, 128), (4, 128, 256), (4, 256, 256), (4, 256, 1)],
    "inference": [(3, 3, 64), (4, 64, 128), (4, 128, 256), (4, 256, 512), (4, 512, 100), (4, 512, 100)],
}


@pytest.mark.parametrize("player", PLAYERS)
def test_dcgan32_is_the_published_network(player):
    network = networks.build(preset("dcgan32"), player, 32)
    convs = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    assert [(m.kernel_size[0], m.in_channels, m.out_channels) for m in convs] == DCGAN[player]
    heads = 2 if player == "inference" else 1
    assert [m.bias is not None for m in convs] == [False] * (len(convs) - heads) + [True] * heads
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [m.num_features for m in norms] == ([512, 512, 256, 128] if player == "generator" else [])


@pytest.mark.parametrize("player", PLAYERS)
def test_dcgan64_has_twice_the_channels_and_batch_norm_in_all_three(player):
    """At 32x32 as its ImageNet's; beyond it one size more each time at the image's end, of half the channels, at least 64."""
    kinds = torch.nn.Conv2d | torch.nn.ConvTranspose2d
    ends = 2 if player == "inference" else 1
    outwards = 1 if player == "generator" else -1  # G begins at the smallest square, the others end there
    found = {}
    for size in (32, 64, 128):
        net = networks.build(preset("dcgan64"), player, size)
        widths = [m.out_channels for m in net.modules() if isinstance(m, kinds)][:-ends]
        assert [m.num_features for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)] == widths
        found[size] = widths[::outwards]
        pictures = torch.zeros(2, 3, size, size)
        if player == "generator":
            assert net(torch.zeros(2, 100)).shape == pictures.shape
        else:
            net(pictures)
    assert found[32][::outwards] == [2 * out for _, _, out in DCGAN[player][:-ends]]
    for size in (64, 128):
        assert found[size] == [*found[size // 2], max(64, found[size // 2][-1] // 2)]


@pytest.mark.parametrize(("kind", "resolution"), [("dcgan32", 32), ("dcgan64", 64), ("dcgan64", 128)])
@pytest.mark.parametrize("of", ["Energy", "GanEnergy"])
def test_layer_norm_leaves_an_energy_a_function_of_one_image(kind, resolution, of):
    energy = getattr(networks.FIXED[kind], of)(NetworkConfig(kind=kind, width=0.125, energy_norm="layer"), resolution)
    networks.initialise(energy, lambda name: torch.Generator().manual_seed(len(name)))
    x = torch.rand(4, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)) * 2 - 1
    kinds = torch.nn.BatchNorm2d | torch.nn.GroupNorm
    assert [m.num_channels for m in energy.modules() if isinstance(m, kinds)] == energy.widths
    torch.testing.assert_close(torch.cat([energy(one) for one in x.split(1)]), energy(x))
    h = energy.norm0(energy.conv0(x)) - energy.norm0.bias[:, None, None]
    torch.testing.assert_close((h / energy.norm0.weight[:, None, None]).flatten(1).std(1, unbiased=False), torch.ones(4), rtol=1e-2, atol=0)


def test_dcgan32_is_fixed_at_32():
    with pytest.raises(ValueError, match="32"):
        networks.build(NetworkConfig(kind="dcgan32"), "generator", 64)


def test_the_kinds_are_the_growing_networks_and_the_table():
    assert (*networks.growing.KINDS,) == ("growing", *networks.FIXED)


@pytest.mark.parametrize("player", PLAYERS)
def test_width_is_a_factor_on_the_channels_of_fixed_networks(player):
    whole, half = (networks.build(NetworkConfig(kind="dcgan32", latent=100, width=width), player, 32) for width in (1.0, 0.5))
    kinds = torch.nn.Conv2d | torch.nn.ConvTranspose2d
    channels = [[m.out_channels for m in net.modules() if isinstance(m, kinds)] for net in (whole, half)]
    ends = {"generator": 1, "energy": 1, "inference": 2}[player]
    assert [2 * c for c in channels[1][:-ends]] == channels[0][:-ends]
    assert channels[1][-ends:] == channels[0][-ends:]
