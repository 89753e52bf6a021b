"""`measure=fidelity`: the path through torch-fidelity, what its numbers are called, the cache of real pictures, and bad input in a line."""

import json
import shutil

import numpy as np
from PIL import Image
import pytest
from safetensors.torch import save_file
import torch
from torch import nn

from hires.cli import main
from hires.errors import HiresError
from hires.evaluation import Settings, fidelity, inception, material
from hires.evaluation.feature_networks import of_random
from hires.evaluation.material import Material, as_pictures
from hires.evaluation.subject import Subject
from hires.ground.ranges import check_ranges
from hires.verbs import evaluate
from pipelines import Loader, PrepareConfig, Shards, SplitConfig, prepare

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test sees what another left, nor the user's weights."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HIRES_INCEPTION", raising=False)


def of_pictures(shards: Shards, split: str = "train", **changes) -> Subject:
    """A system that draws the pictures of a split in the order in which the reference takes them."""
    loader = Loader(shards, 8, split, 0.0)
    order = torch.randperm(shards.count(split), generator=torch.Generator().manual_seed(0))

    def draw(seeds: list[int]) -> torch.Tensor:
        return loader.read(order[seeds].numpy()).float() / 127.5 - 1

    return Subject("s", "", 0, 8, 1, 4, 1.0, CPU, draw=changes.get("draw", draw))


def of_noise(seeds: list[int]) -> torch.Tensor:
    return torch.stack([torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]) * 2 - 1


def settings(**metrics) -> Settings:
    return Settings(metrics=fidelity.Config(**metrics))


def test_the_data_themselves_are_at_0_held_out_pictures_near_and_noise_far(labelled_digits):
    shards = Shards.open(labelled_digits)
    wanted = settings(features="random:0", real=300)
    same = fidelity.measure(Material(of_pictures(shards), shards, 300), wanted)
    noise = fidelity.measure(Material(of_pictures(shards, draw=of_noise), shards, 300), wanted)
    assert same["frechet_random0"] == pytest.approx(0, abs=1e-4) and same["precision_random0"] == same["recall_random0"] == 1
    assert same["kid_random0"] <= 0
    assert 0 < same["frechet_random0_floor"] < noise["frechet_random0"] / 10 and noise["precision_random0"] < 0.1
    assert same["pictures_random0"] == "300 samples against 300 of train; floor: 180 of holdout"
    assert fidelity.lower(noise) == noise["frechet_random0"] > fidelity.lower(same)
    assert not any("fid" in name or "inception" in name for name in same)  # never by Inception's names
    other = fidelity.measure(Material(of_pictures(shards), shards, 150), settings(features="random:0", real=300, split="holdout"))
    assert other["pictures_random0"] == "150 samples against 180 of holdout; floor: 150 of train"
    assert "too few for 192 features" in other["bias_random0"] and "bias_random0" not in same


def test_copies_of_training_pictures_are_told_from_new_ones(labelled_digits):
    shards, wanted = Shards.open(labelled_digits), settings(features="random:0")

    def found(**changes) -> dict:
        return fidelity.measure(Material(of_pictures(shards, **changes), shards, 180), wanted)

    assert found()["copying_random0"] > 0.99
    assert found(split="holdout")["copying_random0"] == pytest.approx(0.5, abs=1e-9)  # the held-out pictures themselves
    assert found(draw=of_noise)["copying_random0"] < 0.01
    other = fidelity.measure(Material(of_pictures(shards), shards, 180), settings(features="random:0", split="holdout"))
    assert not any(name.startswith("copying") for name in other)


@pytest.mark.parametrize("held", [4e9, 0], ids=["samples kept", "samples drawn again"])
def test_the_sheet_shows_the_nearest_samples_beside_their_training_pictures(labelled_digits, tmp_path, monkeypatch, held):
    """Of a system that repeats every third picture and draws noise else, the sheet shows the repeated ones, each beside itself."""
    monkeypatch.setattr(material, "HELD", held)
    shards = Shards.open(labelled_digits)
    repeat = of_pictures(shards).draw
    mixed = of_pictures(shards, draw=lambda seeds: torch.cat([(of_noise if seed % 3 else repeat)([seed]) for seed in seeds]))
    found = fidelity.measure(Material(mixed, shards, 90, tmp_path), settings(features="random:0"))
    sheet = torch.from_numpy(np.array(Image.open(tmp_path / found["fidelity_sheet"]).convert("L")))
    cells = [sheet[y : y + 128, x : x + 260] for y in range(66, 66 + 4 * 152, 152) for x in range(16, 16 + 4 * 276, 276)]
    assert len(cells) == 16 and all(torch.equal(cell[:, :128], cell[:, 132:]) and cell.float().std() > 10 for cell in cells)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random numbers as torch-fidelity reads it."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path_factory.mktemp("weights") / "weights-random.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr(torch, "load", lambda *args, **kwargs: {})
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path="none")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.mul_(6**0.5)  # He's: what torch draws dies out over 40 layers
    torch.save(network.state_dict(), path)
    return path


class Pictures(torch.utils.data.Dataset):
    def __init__(self, images: torch.Tensor):
        self.pixels = ((as_pictures(images) + 1) * 127.5).round().to(torch.uint8).expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.pixels[i]


@pytest.mark.slow
def test_with_weights_it_is_what_torch_fidelity_finds_on_the_same_pictures(weights, labelled_digits, monkeypatch):
    import torch_fidelity
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    monkeypatch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 75)  # a sixteenth of the work
    monkeypatch.setenv("HIRES_INCEPTION", str(weights))
    shards = Shards.open(labelled_digits)
    material = Material(of_pictures(shards, draw=of_noise), shards, 24)
    found = fidelity.measure(material, settings(real=20))
    chosen = torch.randperm(shards.count("train"), generator=torch.Generator().manual_seed(0))[:20]
    real = Loader(shards, 8, "train", 0.0).read(chosen.numpy()).float() / 127.5 - 1
    wanted = torch_fidelity.calculate_metrics(
        **dict.fromkeys(("fid", "kid", "isc", "prc"), True),
        **{"input1": Pictures(of_noise(list(range(24)))), "input2": Pictures(real), "kid_subset_size": 10},
        **{"feature_extractor": "inception-v3-compat", "feature_layer_prc": "2048", "feature_extractor_weights_path": str(weights)},
        **{"cuda": False, "cache": False, "save_cpu_ram": True, "verbose": False},
    )
    names = {"fid": "frechet_inception_distance", "kid": "kernel_inception_distance_mean", "kid_sd": "kernel_inception_distance_std"}
    names |= {"inception_score": "inception_score_mean", "inception_score_sd": "inception_score_std"}
    names |= {"precision_inception": "precision", "recall_inception": "recall"}
    for name, theirs in names.items():
        assert found[name] == pytest.approx(wanted[theirs], rel=2e-3, abs=1e-6), name
    assert found["fid"] > found["fid_floor"] > 0 and found["inception_score"] > 1
    assert "20 pictures are too few for 2,048 features" in found["bias_inception"]
    assert found["features_inception"].startswith("2,048 of Inception, weights weights-random.pth; ")


def test_without_weights_one_line_says_so_and_the_others_go_on(labelled_digits, tmp_path, monkeypatch, capsys):
    shards = Shards.open(labelled_digits)
    monkeypatch.setattr(evaluate, "_of_bundle", lambda config, device: (of_pictures(shards), "standard", ""))
    out = tmp_path / "out.json"
    wanted = ["measure=fidelity,diversity", "images=50", f"out={out}", "device=cpu"]
    assert main(["evaluate", "sampler=s", f"data={labelled_digits}", *wanted]) == 0
    found = json.loads(out.read_text())
    assert found["fidelity"].startswith("no weights: say metrics.weights=FILE") and 0.9 < found["diversity"] < 1.1
    assert fidelity.lower(found) is None and "no weights" in capsys.readouterr().out


def test_real_pictures_are_looked_at_once_and_again_when_the_shards_changed(labelled_digits, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(labelled_digits, data)
    wanted = settings(features="random:0")

    def measured() -> dict:
        shards = Shards.open(data)
        return fidelity.measure(Material(of_pictures(Shards.open(labelled_digits)), shards, 60), wanted)

    first = measured()
    with monkeypatch.context() as patch:
        patch.setattr(Material, "of_pictures", None)  # not called again
        assert measured() == first
    for file in (tmp_path / "cache" / "hires" / "features").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    damaged = measured()
    assert "cannot be read" in damaged.pop("cache_random0") and damaged == first
    shutil.rmtree(data)
    prepare(PrepareConfig(source="digits", out=str(data), resolution=8, workers=1, split=SplitConfig(holdout=180, seed=1)))
    changed = measured()
    assert changed.pop("cache_random0") == "computed again: the shards changed since the cache"
    assert changed["frechet_random0"] != first["frechet_random0"] and measured() == changed
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")  # no folder: works, and says so
    assert "not kept" in measured()["cache_random0"]


def test_weights_may_be_fetched_where_that_is_allowed(tmp_path, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as library

    (tmp_path / "there.pth").write_bytes(b"weights")
    monkeypatch.setattr(library, "URL_INCEPTION_V3", (tmp_path / "there.pth").as_uri())
    assert inception.fetched_weights(tmp_path / "cache").read_bytes() == b"weights"
    monkeypatch.setattr(library, "URL_INCEPTION_V3", (tmp_path / "gone.pth").as_uri())
    with pytest.raises(HiresError, match=r"metrics.download=true: .*gone.pth") as told:
        inception.fetched_weights(tmp_path / "cache")
    assert "\n" not in str(told.value) and not (tmp_path / "cache" / "gone.pth").exists()


def test_weights_that_are_none_or_of_another_network(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    torch.save(nn.Linear(1, 1), tmp_path / "pickle.pth")  # would run code
    torch.jit.save(torch.jit.script(nn.ReLU()), str(tmp_path / "script.pth"))  # no layer that DeepSpeed may have patched
    save_file({"conv.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    expected = {"text.pth": "cannot be read", "epoch.pth": "no weights by name", "pickle.pth": "cannot be read"}
    expected |= {"script.pth": "cannot be read", "other.safetensors": "weights of another network"}
    for name, words in expected.items():
        with pytest.raises(HiresError, match=words) as told:
            inception.of_inception(tmp_path / name, CPU)
        assert name in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": "fid"}, "metrics.features=fid: wanted inception, efficientnet, random:SEED"),
        ({"features": "random:x"}, "wanted random:SEED, such as random:0"),
        ({"features": "random:4294967296"}, "wanted random:SEED, such as random:0, below 2^32"),
        ({"features": "classifier:no/such"}, "no such folder no/such"),
        ({"features": "net.onnx"}, "metrics.features=net.onnx: no such file"),
        ({"weights": "w.pth"}, "metrics.weights=w.pth: no such file"),
        ({"split": "test"}, "metrics.split=test: wanted train or holdout"),
        ({"real": 5}, "metrics.real=5: measure=fidelity wants at least 10"),
        ({"epochs": 0}, "metrics.epochs=0"),
    ],
)
def test_wrong_settings_are_told_before_any_work(changes, words):
    with pytest.raises(HiresError) as told:
        check_ranges(found := settings(**changes))
        fidelity.check(found)
    assert words in str(told.value) and "\n" not in str(told.value)


def test_too_few_samples_and_a_missing_variable_are_told(monkeypatch):
    with pytest.raises(HiresError, match="images=9: measure=fidelity wants at least 10"):
        fidelity.check(Settings(images=9))
    monkeypatch.setenv("HIRES_INCEPTION", "gone.pth")
    with pytest.raises(HiresError, match=r"HIRES_INCEPTION=gone.pth: no such file"):
        fidelity.check(Settings())


def test_features_that_are_not_numbers_are_told(labelled_digits, tmp_path, monkeypatch):
    network = of_random(0, 1, 8, CPU)
    network.of = lambda x, real=network.of: torch.where(x.mean((1, 2, 3))[:, None] > 0, torch.nan, real(x))
    monkeypatch.setattr(fidelity, "of_random", lambda *args: network)
    shards = Shards.open(labelled_digits)
    with pytest.raises(HiresError, match=r"random convolutions, seed 0: features of [\d,]+ of 50 samples are not finite"):
        fidelity.measure(Material(of_pictures(shards, draw=of_noise), shards, 50), settings(features="random:0"))
    assert not list(tmp_path.glob("cache/**/*.safetensors"))
