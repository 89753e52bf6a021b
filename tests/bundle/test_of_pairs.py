"""A bundle whose energy was trained on pairs: energies of images as of any bundle, and of pairs beside them."""

import json

import pytest
import torch

from hires import networks as nets
from hires.bundle import hires_bundle
from hires.bundle.writing import PLAYERS, write_bundle
from hires.networks import NetworkConfig
from hires.networks.pair_energy import PairEnergy

CONFIG = NetworkConfig(latent=8, channels_base=256, channels_max=12, convs=1)


@pytest.mark.parametrize("form,formats", [("identity", ["pt2"]), ("softplus", [])])
def test_it_holds_the_energy_of_pairs_and_gives_that_of_images_with_their_codes(form, formats, same_network, tmp_path):
    made = {name: PairEnergy(CONFIG, 8, False, form) if name == "energy" else nets.build(CONFIG, name, 8) for name in PLAYERS}
    noise = torch.Generator().manual_seed(3)
    for name, network in made.items():
        nets.initialise(network, lambda key, name=name: torch.Generator().manual_seed(sum(map(ord, name + key))))
        with torch.no_grad():
            for key, tensor in network.named_parameters():
                if key.endswith("bias"):
                    tensor.copy_(torch.randn(tensor.shape, generator=noise) * 0.1)
        network.eval()
    folder = write_bundle(tmp_path / "pairs", CONFIG, 8, made, {}, formats)  # compares with the networks in a process of its own
    bundle = hires_bundle.load(folder)
    x, z = torch.rand(3, 3, 8, 8, generator=noise) * 2 - 1, torch.randn(3, 8, generator=noise)
    same_network(bundle.pair_energy, made["energy"], x, z)
    with torch.no_grad():
        mu, _ = made["inference"](x)
        same_network(lambda x, _: bundle.energy(x), made["energy"], x, mu)
        assert (made["energy"](x, z) - made["energy"](x, mu)).abs().max() > (1e-2 if form == "identity" else 1e-5)
    with pytest.raises(ValueError, match=r"latents of shape \(3, 7\)"):
        bundle.pair_energy(x, z[:, 1:])
    assert "bundle.pair_energy(x, z)" in (folder / "README.md").read_text()


def test_other_words_for_what_an_energy_takes_are_refused(sampler, tmp_path):
    document = json.loads((sampler / "config.json").read_text())
    assert document["energy_takes"] == "x" and hires_bundle.load(sampler).pair_energy is None
    for name in [f"{player}.safetensors" for player in PLAYERS]:
        (tmp_path / name).symlink_to(sampler / name)
    for told in ("zx", 1):
        (tmp_path / "config.json").write_text(json.dumps(document | {"energy_takes": told}))
        with pytest.raises(ValueError, match=r"energy_takes=.*wanted x"):
            hires_bundle.load(tmp_path)
