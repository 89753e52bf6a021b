"""Growing: a level that is added changes no output at alpha = 0, and the old path has no say at alpha = 1."""

import zlib

import pytest
import torch

from hires import networks
from hires.networks import NetworkConfig
from hires.networks.growing import fade_images

PLAYERS = ("generator", "energy", "inference")
FORMS = [("generator", "identity"), ("energy", "identity"), ("energy", "softplus"), ("inference", "identity")]


def stream(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def make(player: str, resolution: int, fading: bool, form: str = "identity", channels: int = 3, convs: int = 2) -> torch.nn.Module:
    """A network with random weights and biases (zero biases would hide a bias that the wrong path uses)."""
    config = NetworkConfig(latent=8, channels_base=128, channels_max=16, convs=convs, image_channels=channels)
    network = networks.build(config, player, resolution, fading, form)
    networks.initialise(network, stream)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=stream(name)))
    return network.eval()


def same_weights(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Copies every weight that both have; all of the smaller network's must exist in the larger one."""
    missing = target.load_state_dict(source.state_dict(), strict=False)
    assert not missing.unexpected_keys


def up(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def down(x: torch.Tensor) -> torch.Tensor:
    B, C, H, W = x.shape
    return x.reshape(B, C, H // 2, 2, W // 2, 2).mean((3, 5))


def inputs(player: str, resolution: int, channels: int = 3) -> torch.Tensor:
    shape = (5, 8) if player == "generator" else (5, channels, resolution, resolution)
    return torch.randn(shape, generator=stream(f"{player} {resolution}"))


def outputs(network: torch.nn.Module, x: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    with torch.no_grad():
        y = network(x, alpha)
    return torch.cat(y, 1) if isinstance(y, tuple) else y


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape and a.isfinite().all()
    return (a - b).abs().max().item()


@pytest.mark.parametrize("convs", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [8, 32, 64])
@pytest.mark.parametrize("player,form", FORMS)
def test_an_added_level_changes_nothing_at_alpha_0(player, form, resolution, channels, convs):
    before = make(player, resolution // 2, False, form, channels, convs)
    after = make(player, resolution, True, form, channels, convs)
    same_weights(before, after)
    x = inputs(player, resolution, channels)
    expected = up(outputs(before, x)) if player == "generator" else outputs(before, down(x))
    assert distance(outputs(after, x, alpha=0.0), expected) < 1e-5
    assert distance(outputs(after, x, alpha=0.5), expected) > 1e-3  # the fade does move it


@pytest.mark.parametrize("convs", [1, 2])
@pytest.mark.parametrize("resolution", [8, 32, 64])
@pytest.mark.parametrize("player,form", FORMS)
def test_the_old_path_is_gone_at_alpha_1(player, form, resolution, convs):
    fading, stable = make(player, resolution, True, form, convs=convs), make(player, resolution, False, form, convs=convs)
    same_weights(stable, fading)
    x = inputs(player, resolution)
    expected = outputs(stable, x)
    assert distance(outputs(fading, x, alpha=1.0), expected) < 1e-5
    old = {name for name, _ in fading.named_parameters()} - {name for name, _ in stable.named_parameters()}
    assert old and all(f"levels.{resolution // 2}x{resolution // 2}." in name for name in old)
    with torch.no_grad():
        for name in old:
            fading.get_parameter(name).add_(100.0)
    assert distance(outputs(fading, x, alpha=0.999), expected) > 1e-3
    assert distance(outputs(fading, x, alpha=1.0), expected) < 1e-5


@pytest.mark.parametrize("player", PLAYERS)
def test_a_fade_is_linear_in_alpha_at_the_image_end(player):
    """G's output is the blend itself; in E and I the features behind from_rgb are blended, so only G's output is linear."""
    network, x = make(player, 16, True), inputs(player, 16)
    ends = [outputs(network, x, a) for a in (0.0, 1.0)]
    blend = 0.75 * ends[0] + 0.25 * ends[1]
    assert (distance(outputs(network, x, 0.25), blend) < 1e-5) == (player == "generator")


def test_real_images_fade_with_the_networks():
    x = inputs("energy", 16)
    assert distance(fade_images(x, 0.0), up(down(x))) < 1e-6
    assert torch.equal(fade_images(x, 1.0), x)
    assert distance(fade_images(x, 0.3), 0.7 * up(down(x)) + 0.3 * x) < 1e-6


@pytest.mark.parametrize("player", PLAYERS)
def test_alpha_means_nothing_to_a_stable_network(player):
    network, x = make(player, 16, False), inputs(player, 16)
    assert torch.equal(outputs(network, x, 0.2), outputs(network, x, 1.0))


@pytest.mark.parametrize("player,form", FORMS)
@pytest.mark.parametrize("fading", [False, True])
def test_every_parameter_is_used_in_every_step(player, form, fading):
    """ZeRO waits for every parameter's gradient: one that is not used in a state of the network must not be there."""
    network = make(player, 16, fading, form)
    y = network(inputs(player, 16), 0.4)
    (torch.cat(y, 1) if isinstance(y, tuple) else y).square().sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead
