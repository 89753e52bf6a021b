"""Bundles of the siblings: what their networks give, how those without a generator draw, and what says no where a network is missing."""

from dataclasses import replace
import json
import math
from pathlib import Path

import pytest
import torch

from hires import networks as nets
from hires.bundle import hires_bundle
from hires.bundle.chains import chains_of
from hires.bundle.writing import write_bundle, write_files
from hires.errors import HiresError
from hires.evaluation import subject
from hires.explore.model import Explorer
from hires.networks import NetworkConfig
from hires.objectives import SYSTEMS
from hires.objectives.replay import ChainsConfig, refine
from hires.sampling.codes import encode
from hires.sampling.refining import LangevinConfig
from hires.verbs import reconstruct, restore, sample, score, video
from hires.verbs.reconstruct import Config as ReconstructConfig
from hires.verbs.restore import Config as RestoreConfig
from hires.verbs.sample import Config as SampleConfig
from hires.verbs.score import Config as ScoreConfig
from hires.verbs.video import Config as VideoConfig

CONFIG = NetworkConfig(latent=8, channels_base=256, channels_max=12, convs=1)
CHAINS = ChainsConfig(steps=2, restart=0.5, noise=0.02)
SETTINGS = {
    **{"vgan": {"experts": 5}, "gan": {}, "wgan": {}, "vcd": {"experts": 5}, "divergence_triangle": {"energy": "experts"}},
    **{"f_ebm": {"chains": CHAINS}, "f_ebm generator": {"chains": CHAINS, "sampler": "generator"}},
    **{"contrastive_divergence": {"chains": CHAINS}, "vae": {}},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(system) -> its networks with random weights, and the folder of their bundle, checked in a process of its own."""
    known = {}

    def make(name: str):
        if name in known:
            return known[name]
        system, networks = SYSTEMS[name.split()[0]], {}
        config, noise = system.Settings(**SETTINGS[name]), torch.Generator().manual_seed(3)
        for player in config.players():
            network = system.network(config, CONFIG, player, 8, False)
            nets.initialise(network, lambda key, player=player: torch.Generator().manual_seed(sum(map(ord, player + key))))
            with torch.no_grad():
                for key, tensor in network.named_parameters():
                    if key.endswith("bias"):
                        tensor.copy_(torch.randn(tensor.shape, generator=noise) * 0.1)
            networks[player] = network.eval()
        formats = ["pt2"] if name == "vcd" else []
        info, out, chains = {"system": name.split()[0]}, tmp_path_factory.mktemp(name.split()[0]) / "b", chains_of(config)
        if name == "f_ebm":  # the two below are checked
            write_files(out, CONFIG, 8, networks, info, "b", formats, chains)
        else:
            write_bundle(out, CONFIG, 8, networks, info, formats, chains)
        known[name] = networks, out
        return known[name]

    return make


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_a_bundle_gives_what_the_networks_give(name, made, same_network):
    networks, folder = made(name)
    bundle, noise = hires_bundle.load(folder), torch.Generator().manual_seed(4)
    z, x = torch.randn(5, 8, generator=noise), torch.rand(5, 3, 8, 8, generator=noise) * 2 - 1
    for player, given in (("generator", z), ("energy", x), ("variational", x), ("inference", x)):
        ours = getattr(bundle, player)
        assert (ours is None) == (player not in networks)
        if ours:
            same_network(ours, networks[player], given)
    if name == "divergence_triangle":
        assert bundle.energy(1e3 * x).max() <= 8 * math.log(2) + 1e-5


@pytest.mark.parametrize("name", ["f_ebm", "contrastive_divergence", "f_ebm generator"])
def test_pictures_are_where_the_trainings_own_chains_end(name, made, agree):
    networks, folder = made(name)
    bundle, seeds = hires_bundle.load(folder), [3, 8]
    chains = json.loads((folder / "config.json").read_text())["chains"]
    assert chains == {"steps": 2 if "generator" in networks else 4, "step_size": 0.15, "noise": 0.02, "reach": 0.1}

    def chain(of=lambda one: one) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the chains of the seeds begin and end."""
        dice = [torch.Generator().manual_seed(seed) for seed in seeds]

        def draw(stream: str, size: int) -> torch.Tensor:
            return of(torch.stack([torch.randn(size, generator=die) for die in dice]))

        if "generator" in networks:
            begin = of(networks["generator"])(draw("latent", 8)).detach()
        else:
            begin = of(torch.stack([torch.rand(3, 8, 8, generator=die) for die in dice]) * 2 - 1)
        return begin, refine(replace(CHAINS, steps=chains["steps"]), of(networks["energy"]), begin, draw)[0]

    begin, wanted = chain()
    found = bundle.sample(seeds)
    agree(found, wanted, lambda double: chain(double)[1])
    assert (found - begin).abs().max() > 0.05
    agree(bundle.sample([8])[0], wanted[1], lambda double: chain(double)[1][1])
    assert torch.equal(bundle.sample(seeds, steps=0), begin) or "generator" in networks
    if "variational" in networks:
        assert torch.equal(bundle.log_ratio(found), bundle.variational(found) + bundle.energy(found))
    config = SYSTEMS[name.split()[0]].Settings(**SETTINGS[name])
    of = subject.of_networks(dict(networks), config, "", 0, (8, 3, 8), 1.0, torch.device("cpu"))
    agree(of.draw(seeds), wanted, lambda double: chain(double)[1])


def test_without_a_generator_sample_score_and_restore_work_and_the_rest_says_no(made, tmp_path, capsys):
    folder = str(made("contrastive_divergence")[1])
    sample.run(SampleConfig(folder, str(tmp_path / "x.png"), "0-3", top_by="energy", device="cpu"))
    score.run(ScoreConfig(folder, str(tmp_path / "x.png"), str(tmp_path / "s.png"), device="cpu"))
    restore.run(RestoreConfig(folder, str(tmp_path / "x.png"), str(tmp_path / "r.png"), device="cpu"))
    assert "4 pictures" in capsys.readouterr().out and (tmp_path / "r.csv").is_file()
    for more in ({"truncation": 0.5}, {"langevin": LangevinConfig(steps=1, space="latents")}):
        with pytest.raises(HiresError, match=r"the sampler draws by Langevin steps on pictures"):
            sample.run(SampleConfig(folder, str(tmp_path / "y.png"), "0", device="cpu", **more))
    for run in (
        lambda: video.run(VideoConfig(folder, str(tmp_path / "v.gif"), device="cpu")),
        lambda: reconstruct.run(ReconstructConfig(folder, str(tmp_path / "x.png"), str(tmp_path / "y.png"), device="cpu")),
    ):
        with pytest.raises(HiresError, match=r"it has no generator \(objective=contrastive_divergence trains none\)"):
            run()
    card = (Path(folder) / "README.md").read_text()
    assert "An energy of 8x8 pictures, trained by" in card and "4 steps x" in card and "from uniform noise" in card
    assert "bundle.generator" not in card and "inference" not in card


def test_without_an_energy_there_are_pictures_and_codes(made, tmp_path):
    folder = str(made("vae")[1])
    sample.run(SampleConfig(folder, str(tmp_path / "x.png"), "0-3", device="cpu"))
    for more in ({"top_by": "energy"}, {"langevin": LangevinConfig(steps=1)}):
        with pytest.raises(HiresError, match="the sampler has no energy"):
            sample.run(SampleConfig(folder, str(tmp_path / "y.png"), "0", device="cpu", **more))
    for run, config in ((score.run, ScoreConfig), (restore.run, RestoreConfig)):
        with pytest.raises(HiresError, match="it has no energy"):
            run(config(folder, str(tmp_path / "x.png"), str(tmp_path / "y.png"), device="cpu"))
    assert Explorer(hires_bundle.load(folder), "b").sample([1])[0]["energy"] is None
    card = (Path(folder) / "README.md").read_text()
    assert "A generator of 8x8 pictures and an inference model, trained together" in card and "energy" not in card


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


@pytest.mark.parametrize(
    "wrong",
    [
        *({"experts": "5"}, {"has_inference": 1}, {"squashes": "no"}, {"experts": 6}, {"experts": None}, {"chains": {}}),
        *({"classes": "3"}, {"classes": 3}, {"classes": -1}),
    ],
)
def test_a_configuration_that_is_none_is_told(wrong, made, tmp_path):
    folder = made("vcd")[1]
    for path in folder.glob("*.safetensors"):
        (tmp_path / path.name).symlink_to(path)
    document = json.loads((folder / "config.json").read_text()) | wrong
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=next(iter(wrong)) if wrong != {"experts": 6} else "head"):
        hires_bundle.load(tmp_path)
