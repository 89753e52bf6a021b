"""Bundles of vgan, gan, vcd and of the triangle with the bounded energy, and what says no where there is no inference model."""

import json
import math

import pytest
import torch

from hires import networks as nets
from hires.errors import HiresError
from hires.explore.model import Explorer
from hires.networks import NetworkConfig
from hires.objectives import SYSTEMS
from hires.sampling import hires_bundle
from hires.sampling.bundle import write_bundle
from hires.sampling.codes import encode

CONFIG = NetworkConfig(latent=8, channels_base=256, channels_max=12, convs=1)
SETTINGS = {"vgan": {"experts": 5}, "gan": {}, "vcd": {"experts": 5}, "divergence_triangle": {"energy": "experts"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(system) -> its networks with random weights, and the folder of their bundle, checked in a process of its own."""
    known = {}

    def make(name: str):
        if name in known:
            return known[name]
        system, networks = SYSTEMS[name], {}
        config, noise = system.Config(**SETTINGS[name]), torch.Generator().manual_seed(3)
        for player in config.players():
            network = system.network(config, CONFIG, player, 8, False)
            nets.initialise(network, lambda key, player=player: torch.Generator().manual_seed(sum(map(ord, player + key))))
            with torch.no_grad():
                for key, tensor in network.named_parameters():
                    if key.endswith("bias"):
                        tensor.copy_(torch.randn(tensor.shape, generator=noise) * 0.1)
            networks[player] = network.eval()
        formats = ["pt2"] if name == "vcd" else []
        known[name] = networks, write_bundle(tmp_path_factory.mktemp(name) / "b", CONFIG, 8, networks, {"system": name}, formats)
        return known[name]

    return make


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_a_bundle_gives_what_the_networks_give(name, made):
    networks, folder = made(name)
    bundle, noise = hires_bundle.load(folder), torch.Generator().manual_seed(4)
    z, x = torch.randn(5, 8, generator=noise), torch.rand(5, 3, 8, 8, generator=noise) * 2 - 1
    assert (bundle.generator(z) - networks["generator"](z)).abs().max() < 1e-5
    u = networks["energy"](x)
    assert u.std() > 1e-4 and (bundle.energy(x) - u).abs().max() < 1e-5
    if "inference" in networks:
        mu, logvar = networks["inference"](x)
        assert (bundle.inference(x)[0] - mu).abs().max() < 1e-5 and (bundle.inference(x)[1] - logvar).abs().max() < 1e-5
    if name == "divergence_triangle":
        assert bundle.energy(1e3 * x).max() <= 8 * math.log(2) + 1e-5


@pytest.mark.parametrize("name", ["vgan", "gan"])
def test_without_an_inference_model_there_are_pictures_and_energies_and_no_codes(name, made, tmp_path):
    folder = made(name)[1]
    bundle = hires_bundle.load(folder)
    assert bundle.inference is None and not list(folder.glob("inference*"))
    assert bundle.energy(bundle.sample([1, 2])).shape == (2,)
    for ask in (lambda: encode(bundle, torch.zeros(1, 3, 8, 8)), lambda: Explorer(bundle, "b").reconstruct(b"")):
        with pytest.raises(HiresError, match="no inference model"):
            ask()
    card = (folder / "README.md").read_text()
    assert "inference" not in card and f"objective={name}" in card


def test_a_card_tells_the_energys_bound(made):
    assert "from 0 to 0.693" in (made("vgan")[1] / "README.md").read_text()
    assert "from 0 to 5.55" in (made("divergence_triangle")[1] / "README.md").read_text()


@pytest.mark.parametrize("wrong", [{"experts": "5"}, {"has_inference": 1}, {"squashes": "no"}, {"experts": 6}, {"experts": None}])
def test_a_configuration_that_is_none_is_told(wrong, made, tmp_path):
    folder = made("vcd")[1]
    for path in folder.glob("*.safetensors"):
        (tmp_path / path.name).symlink_to(path)
    document = json.loads((folder / "config.json").read_text()) | wrong
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=next(iter(wrong)) if wrong != {"experts": 6} else "head"):
        hires_bundle.load(tmp_path)
