"""Bundles of the papers' networks of fixed sizes: batch and spectral normalisation folded into plain layers, at any width."""

import json

import pytest
import torch

from hires import networks as nets
from hires.bundle import hires_bundle
from hires.bundle.writing import write_files
from hires.networks import NetworkConfig, batch_norm
from hires.objectives import SYSTEMS, divergence_triangle, gan, latent_ebm, wgan

CASES = {
    "p2": (latent_ebm.Config(energy="softplus"), NetworkConfig(kind="p2", latent=5, width=0.05, image_channels=1), 28),
    "dcgan64": (divergence_triangle.Config(), NetworkConfig(kind="dcgan64", latent=5, width=0.02), 64),
    "gan": (gan.Config(), NetworkConfig(kind="dcgan32", latent=5, width=0.05), 32),
    "wgan": (wgan.Config(), NetworkConfig(kind="p2", latent=5, width=0.05), 64),
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
            elif player == "energy":
                tensor.mul_(8)  # the published start gives an energy that hardly varies
        networks[player] = network.eval()
        if batch_norm.layers(network):
            batch_norm.measure(network, z if player == "generator" else x)
    write_files(tmp_path / "b", shape, resolution, networks, {"system": config.name}, "b")
    bundle = hires_bundle.load(tmp_path / "b")
    same_network(bundle.generator, networks["generator"], z)
    if "inference" not in networks:
        same_network(bundle.energy, networks["energy"], x)
        assert (bundle.energy(x) > 0).all() == (name == "gan")
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
