"""Bundles of the papers' networks of fixed sizes: batch and spectral normalisation folded into plain layers, at any width."""

from dataclasses import replace
import json

import pytest
import torch

from hires import networks as nets
from hires.bundle import hires_bundle
from hires.bundle.chains import chains_of
from hires.bundle.writing import write_bundle, write_files
from hires.errors import HiresError
from hires.networks import NetworkConfig, batch_norm
from hires.objectives import SYSTEMS, contrastive_divergence, divergence_triangle, f_ebm, gan, latent_ebm, vcd, vgan, wgan
from hires.objectives.replay import ChainsConfig, refine

CASES = {
    "p2": (latent_ebm.Config(energy="softplus"), NetworkConfig(kind="p2", latent=5, width=0.05, image_channels=1), 28),
    "dcgan64": (divergence_triangle.Config(), NetworkConfig(kind="dcgan64", latent=5, width=0.02), 64),
    "dcgan64 at 128x128": (divergence_triangle.Config(), NetworkConfig(kind="dcgan64", latent=5, width=0.02, energy_norm="layer"), 128),
    "layer norm": (divergence_triangle.Config(), NetworkConfig(kind="dcgan64", latent=5, width=0.02, energy_norm="layer"), 32),
    "gan with layer norm": (gan.Config(), NetworkConfig(kind="dcgan64", latent=5, width=0.05, energy_norm="layer"), 64),
    "gan": (gan.Config(), NetworkConfig(kind="dcgan32", latent=5, width=0.05), 32),
    "wgan": (wgan.Config(), NetworkConfig(kind="p2", latent=5, width=0.05), 64),
    "p3 vgan": (vgan.Config(experts=5, over_experts="sum"), NetworkConfig(kind="p3", latent=5, width=0.05), 32),
    "p3 gan": (gan.Config(), NetworkConfig(kind="p3", latent=5, width=0.05, image_channels=1), 28),
    "p3 vcd": (vcd.Config(experts=5, over_experts="sum"), NetworkConfig(kind="p3", latent=5, width=0.1, image_channels=1), 28),
    "p2 as a triangle": (divergence_triangle.Config(), NetworkConfig(kind="p2", latent=5, width=0.05), 32),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_bundle_gives_what_the_networks_give(name, tmp_path, same_network):
    config, shape, resolution = CASES[name]
    noise, networks = torch.Generator().manual_seed(3), {}
    x, z = torch.rand(6, shape.image_channels, resolution, resolution, generator=noise) * 2 - 1, torch.randn(6, 5, generator=noise)
    for player in config.players():
        network = SYSTEMS[config.name].network(config, shape, player, resolution, False)
        nets.initialise(network, lambda key, player=player: torch.Generator().manual_seed(sum(map(ord, player + key))))
        for key, tensor in network.named_parameters():
            if key.endswith("bias"):
                tensor.copy_(torch.randn(tensor.shape, generator=noise) * 0.1)
            elif player == "energy" and shape.kind != "p3":
                tensor.mul_(8)  # the published start gives an energy that hardly varies
        networks[player] = network.eval()
        if batch_norm.layers(network):
            batch_norm.measure(network, z if player == "generator" else x)
    write_files(tmp_path / "b", shape, resolution, networks, {"system": config.name}, "b")
    bundle = hires_bundle.load(tmp_path / "b")
    same_network(bundle.generator, networks["generator"], z)
    if "inference" not in networks:
        same_network(bundle.energy, networks["energy"], x)
        assert (bundle.energy(x) > 0).all() == (name != "wgan")
        return
    same_network(bundle.inference, networks["inference"], x)
    mu, _ = networks["inference"](x)
    if name == "p2":
        wanted = networks["energy"](x, z)
        torch.testing.assert_close(bundle.pair_energy(x, z), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bundle.score(x), networks["energy"](x, mu), rtol=1e-4, atol=1e-5)
    else:
        same_network(bundle.energy, networks["energy"], x)
    torch.testing.assert_close(bundle.reconstruct(x), networks["generator"](mu), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resolution": 48}, "28, 32, 64"),
        ({"widths": {"generator": [0, 2]}}, "generator"),
        ({"widths": {"generator": [True, 2]}}, "generator"),
        ({"latent": True}, "latent=True, wanted int"),
        ({"normed": 5}, "normed=5, wanted list"),
        ({"energy_norm": "instance"}, "energy_norm='instance', wanted layer"),
        ({"energy_takes": "xz", "widths": {"generator": [8, 8, 4]}}, "none for energy and latent"),
    ],
)
def test_a_configuration_of_no_such_network_is_one_line(change, words, tmp_path):
    shape = NetworkConfig(kind="p2", latent=5, width=0.05, image_channels=1)
    networks = {"generator": nets.build(shape, "generator", 28).eval()}
    nets.initialise(networks["generator"], lambda key: torch.Generator().manual_seed(len(key)))
    write_files(tmp_path / "b", shape, 28, networks, {"system": "vae"}, "b")
    path = tmp_path / "b" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (tmp_path / "b" / "README.md").unlink()
    with pytest.raises(ValueError, match=words):
        hires_bundle.load(tmp_path / "b")


@pytest.mark.parametrize("name", ["f_ebm", "contrastive_divergence"])
def test_a_residual_energy_draws_as_its_trainings_chains(name, tmp_path, same_network, agree):
    """Noise first, as P4 has it; the slope is taken where the noise has led."""
    own = {"chains": ChainsConfig(steps=2, restart=0.5, noise=0.05, noise_first=True)}
    config = f_ebm.Config(**own) if name == "f_ebm" else contrastive_divergence.Config(**own)
    shape, networks = NetworkConfig(kind="p4", latent=1, width=0.03), {}
    for player in config.players():
        networks[player] = SYSTEMS[name].network(config, shape, player, 32, False)
        nets.initialise(networks[player], lambda key, player=player: torch.Generator().manual_seed(sum(map(ord, player + key))))
        with torch.no_grad():
            for block in networks[player].blocks:  # the published start lets next to nothing through
                block.conv1.parametrizations.weight.original.mul_(3e9)
            networks[player].train()(torch.zeros(1, 3, 32, 32))  # a step of the power iteration: the first singular value is no guess
        networks[player].eval()
    if name == "f_ebm":
        write_bundle(tmp_path / "b", shape, 32, networks, {"system": name}, chains=chains_of(config))
    else:
        write_files(tmp_path / "b", shape, 32, networks, {"system": name}, "b", chains=chains_of(config))
    bundle = hires_bundle.load(tmp_path / "b")
    x = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1
    for player in networks:
        same_network(getattr(bundle, player), networks[player], x)
    assert (bundle.variational is None) == (name != "f_ebm")

    def chain(of=lambda one: one) -> torch.Tensor:
        dice = [torch.Generator().manual_seed(seed) for seed in (3, 8)]

        def draw(stream: str, size: int) -> torch.Tensor:
            return of(torch.stack([torch.randn(size, generator=die) for die in dice]))

        begin = of(torch.stack([torch.rand(3, 32, 32, generator=die) for die in dice]) * 2 - 1)
        return refine(replace(config.chains, steps=4), of(networks["energy"]), begin, draw)[0]  # of two rounds

    agree(bundle.sample([3, 8]), chain(), chain)
    card = (tmp_path / "b" / "README.md").read_text()
    assert "4 steps x ← clamp(y − clamp(0.15 r² ∂U/∂y, ±0.1), ±1), y = x + 0.05 e" in card


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"widths": {"energy": [4, 8]}}, "has_generator with kind=p3"),
        ({"widths": {"energy": [4, 8, 8], "generator": [8, 8]}}, "has_energy with kind=p3"),
        ({"has_variational": True, "widths": {"energy": [4, 8], "generator": [8, 8]}}, "has_variational with kind=p3"),
        ({"energy_form": "experts"}, "number of experts"),
    ],
)
def test_a_configuration_of_no_pooled_network_is_one_line(change, words, tmp_path):
    shape, networks = NetworkConfig(kind="p3", latent=5, width=0.05), {}
    for player in ("generator", "energy"):
        networks[player] = SYSTEMS["gan"].network(gan.Config(), shape, player, 32, False).eval()
    write_files(tmp_path / "b", shape, 32, networks, {"system": "gan"}, "b")
    path = tmp_path / "b" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (tmp_path / "b" / "README.md").unlink()
    with pytest.raises(ValueError, match=words):
        hires_bundle.load(tmp_path / "b")


def test_codes_of_the_pooled_encoder_are_refused_as_onnx(tmp_path):
    config, shape = vcd.Config(experts=5), NetworkConfig(kind="p3", latent=5, width=0.05)
    networks = {player: SYSTEMS["vcd"].network(config, shape, player, 32, False) for player in config.players()}
    with pytest.raises(HiresError, match="inverse of erf"):
        write_bundle(tmp_path / "b", shape, 32, networks, {}, ["onnx"])
