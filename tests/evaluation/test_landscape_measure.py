"""The measure: pictures and energies of real networks, files, and a search that was ended or is shared."""

import json
from pathlib import Path
import runpy
import sys
from types import SimpleNamespace

import numpy as np
from PIL import Image
import pytest
from safetensors.torch import load_file
import torch

from hires import evaluation
from hires.errors import HiresError
from hires.evaluation import landscape
from hires.evaluation.landscape import Config
from hires.evaluation.landscape.tree import branches
from hires.evaluation.landscape.work import Work
from hires.evaluation.subject import of_networks
from hires.ground.noise import generator
from hires.networks import Energy, Generator, NetworkConfig, initialise
from hires.objectives import divergence_triangle

SIZE = NetworkConfig(latent=6, channels_base=64, channels_max=8, convs=1, image_channels=1)
QUICK = {"starts": 6, "steps": 20, "points": 4, "relax": 2, "walks": 0, "neighbours": 1, "leaves": 3}


def material(folder: Path | None, seed: int = 0, without: str = "") -> SimpleNamespace:
    networks = {"generator": Generator(SIZE, 8), "energy": Energy(SIZE, 8)}
    for player, network in networks.items():
        initialise(network, lambda name, player=player: generator(seed, player + name))
        network.requires_grad_(False)
    networks.pop(without, None)
    subject = of_networks(networks, divergence_triangle.Config(), "runs/a", 0, (8, 1, SIZE.latent), 1.0, torch.device("cpu"))
    seen = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    held_out = {"shards": SimpleNamespace(count=lambda split: 9), "of_pictures": lambda of, split, count: of(seen[:count])}
    return SimpleNamespace(subject=subject, folder=folder, first=True, **held_out)


def measured(folder: Path, seed: int = 0, **settings) -> dict:
    config = Config(**{**QUICK, "depth": 1e-3, **settings})
    return landscape.measure(material(folder, seed), SimpleNamespace(landscape=config, images=9))


@pytest.mark.parametrize("space", ["latent", "pixel"])
def test_a_landscape_and_its_files(tmp_path, space):
    found = measured(tmp_path, space=space)
    record = json.loads((tmp_path / found[f"landscape_{space}_record"]).read_text())
    energies = [basin["energy"] for basin in record["basins"]]
    assert energies == sorted(energies) and found[f"landscape_{space}_lowest"] == pytest.approx(energies[0])
    assert max(energies) < record["energy_at_the_starts"]["mean"]
    assert len(energies) >= 2 and sum(basin["members"] for basin in record["basins"]) <= 12
    for joint in record["joints"]:
        assert joint["above_the_higher_floor"] >= 1e-3 * (1 - 1e-3)  # the depth asked for
    points = load_file(tmp_path / f"landscape_{space}.safetensors")
    ends = points["floors"][points["joins"]]
    assert torch.allclose(points["paths"][:, [0, -1]], ends, atol=1e-5)
    with Image.open(tmp_path / found[f"landscape_{space}_picture"]) as picture:
        assert picture.mode == "RGBA" and np.asarray(picture).std() > 5


def test_an_ended_search_goes_on_and_finds_the_same(tmp_path):
    whole = measured(tmp_path / "whole")
    (of_whole,) = (tmp_path / "whole").glob("landscape-*")
    cut = tmp_path / "cut" / of_whole.name
    cut.mkdir(parents=True)
    for path in of_whole.iterdir():
        if not path.name.startswith("barriers"):
            (cut / path.name).write_bytes(path.read_bytes())
    calls = []
    before, landscape.search.__globals__["_descents"] = landscape.search.__globals__["_descents"], lambda *a: calls.append(a)
    try:
        again = measured(tmp_path / "cut")
    finally:
        landscape.search.__globals__["_descents"] = before
    assert again == whole and not calls
    assert (tmp_path / "cut" / "landscape_latent.json").read_bytes() == (tmp_path / "whole" / "landscape_latent.json").read_bytes()
    with pytest.raises(HiresError, match="begun with other networks"):
        measured(tmp_path / "cut", seed=1)


@pytest.mark.slow
def test_one_and_two_processes_find_the_same(tmp_path, forks, clean_env):
    script = str(Path(__file__).parents[1] / "processes" / "landscape_ranks.py")
    processes = [forks.start([sys.executable, script, tmp_path / "two", rank], env=clean_env) for rank in "01"]
    runpy.run_path(script)["shared"](tmp_path / "one")
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    one, two = (sorted((tmp_path / size).iterdir()) for size in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two] and len(one) >= 5
    for a, b in zip(one, two, strict=True):
        a, b = load_file(a), load_file(b)
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_piece_that_fails_is_the_one_that_is_made_again(tmp_path):
    made, told = [], []

    def compute(i: int) -> dict[str, torch.Tensor]:
        made.append(i)
        if made == [0, 1]:
            raise HiresError("full disk")
        return {"x": torch.tensor([i])}

    with pytest.raises(HiresError, match="full disk"):
        Work(tmp_path).do("a", 3, compute)
    found = Work(tmp_path, lambda *what: told.append(what)).do("a", 3, compute)
    assert [piece["x"].item() for piece in found] == [0, 1, 2] and made == [0, 1, 1, 2]
    assert told == [("a", 1, 3), ("a", 2, 3), ("a", 3, 3)]
    (tmp_path / "a-0001.safetensors").write_bytes(b"{}")
    with pytest.raises(HiresError, match=r"a-0001\.safetensors: damaged"):
        Work(tmp_path).do("a", 3, compute)


def test_what_cannot_be_is_told_in_a_line(tmp_path):
    def told(message: str, of, **settings) -> None:
        with pytest.raises(HiresError, match=message):
            landscape.measure(of, SimpleNamespace(landscape=Config(**settings)))

    told("landscape.space=sky: wanted latent or pixel", material(tmp_path), space="sky")
    told("landscape.starts=1: wanted at least 2", material(tmp_path), starts=1)
    told("runs/a has no generator; say landscape.space=pixel", material(tmp_path, without="generator"))
    told("writes files: give run=", material(None))
    assert not hasattr(landscape, "lower")  # too much for a training that looks at itself
    with pytest.raises(HiresError, match="has no energy of images"):
        evaluation.check(["landscape"], material(tmp_path, without="energy").subject, evaluation.Settings())
    with pytest.raises(HiresError, match=r"landscape\.walks=-1"):
        evaluation.check(["landscape"], material(tmp_path).subject, evaluation.Settings(landscape=Config(walks=-1)))
    with pytest.raises(HiresError, match="1 basin has no tree"):
        landscape.measure.__globals__["tree"]([0], {})


def test_branches_join_above_the_middle_of_their_sides():
    joined = np.array([[0, 2, 3.0, 2], [3, 1, 5.0, 3]])
    graph = branches(np.array([1.0, 0.0, 2.0]), joined)
    assert graph.x.tolist() == [1, 0, 2]  # the deepest leaf to the left, what it joins to the right
    uprights = {(x0, y0, y1) for x0, y0, x1, y1 in graph.lines if x0 == x1}
    assert uprights == {(1, 1.0, 3.0), (2, 2.0, 3.0), (1.5, 3.0, 5.0), (0, 0.0, 5.0)}
