"""Rates with known values, intervals that cover, what each score is, and `measure=detection` and `anomaly` on data made for them."""

import json
import math
from types import SimpleNamespace

import numpy as np
from PIL import Image
import pytest
import torch

from hires import config as configuration
from hires.cli import main
from hires.errors import HiresError
from hires.evaluation import Settings, anomaly, detection, outliers
from hires.evaluation.material import Material
from hires.evaluation.subject import Subject
from hires.training.trainer import Trainer
from pipelines import Loader, PrepareConfig, Shards, prepare
from pipelines.listing import SplitConfig


def normal(count: int, mean: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, count)


def subject(**functions) -> Subject:
    """A system of 8x8 grey pictures with the given functions."""
    return Subject("s", "", 0, 8, 1, 4, 1.0, torch.device("cpu"), **functions)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Shards:
    """The digits at 8x8: all fours and 300 others are held out."""
    out = tmp_path_factory.mktemp("data") / "without4"
    prepare(PrepareConfig(source="digits", out=str(out), resolution=8, workers=1, split=SplitConfig(300, 0, match="_4$")))
    return Shards.open(out)


# ------------------------------------------------------------------------------------------------------------ the rates


@pytest.mark.parametrize("d", [0.0, 0.7, 2.0, -1.0])
def test_two_gaussians_a_distance_apart(d):
    """AUROC = Phi(d / sqrt 2); where 95 % of N(0, 1) pass, Phi(1.645 - d) of N(d, 1) does."""
    phi = torch.special.ndtr(torch.tensor([d / math.sqrt(2), 1.6448536 - d])).tolist()
    auroc, auprc, fpr = outliers.rates(normal(10_000, 0, 0), normal(5_000, d, 1))
    assert auroc == pytest.approx(phi[0], abs=0.015) and fpr == pytest.approx(phi[1], abs=0.02)
    if d == 0:
        assert auprc == pytest.approx(1 / 3, abs=0.015)
    assert (auprc > 1 / 3 + 0.05) == (d > 0.5)


def test_the_rates_of_hand_counted_scores():
    usual, strange = np.arange(20.0), np.array([18.5, 30.0, 5.5, 18.0])
    auroc, auprc, fpr = outliers.rates(usual, strange)
    assert auroc == pytest.approx((19 + 20 + 6 + 18.5) / 80)
    # strange ones from the highest score down, the tie of 18 counted with its usual one: 1/1, 2/3, 3/5, 4/18
    assert auprc == pytest.approx((1 + 2 / 3 + 3 / 5 + 4 / 18) / 4)
    assert fpr == 2 / 4  # 19 of 20 usual ones lie at 18 or below, and so do 5.5 and 18


@pytest.mark.parametrize("levels", [5, 100_000])
def test_counts_give_the_librarys_rates_ties_or_none(levels):
    draw = np.random.default_rng(levels)
    usual, strange = draw.integers(0, levels, 300), draw.integers(0, levels, 200) + levels // 5
    values, places = np.unique(np.concatenate([usual, strange]), return_inverse=True)
    counts = (np.bincount(part, minlength=len(values)) for part in (places[:300], places[300:]))
    assert outliers.rates_of_counts(*counts) == pytest.approx(outliers.rates(usual, strange))


def test_nineteen_of_twenty_intervals_hold_the_truth():
    """Of 100 trials 95 are expected, with a deviation of 2.2; the small sets cost a few."""
    truth = torch.special.ndtr(torch.tensor(0.7 / math.sqrt(2))).item()
    held = 0
    for trial in range(100):
        (value, low, high), *_ = outliers.rates_with_intervals(normal(100, 0, 2 * trial), normal(80, 0.7, 2 * trial + 1))
        assert low < value < high
        held += low < truth < high
    assert 87 <= held < 100


def test_areas_of_chance_and_of_the_worst():
    draw = np.random.default_rng(0)
    assert anomaly.areas(draw.random(7000), draw.random(3000)) == pytest.approx([0.3, 0.3, 0.5], abs=0.02)
    worst, _, auroc = anomaly.areas(np.arange(7000.0) + 1e4, np.arange(3000.0))
    assert auroc == 0 and worst == pytest.approx(anomaly.least_area(0.3), abs=1e-3)
    assert anomaly.least_area(0.388) == pytest.approx(0.225, abs=1e-3)  # of MNIST's ones


# ------------------------------------------------------------------------------------------------------------ the scores


def test_the_slope_is_that_of_the_whole_score_and_no_graph_is_left():
    weight = torch.randn(64, generator=torch.Generator().manual_seed(0))
    of = subject(energy=lambda x: (x.flatten(1) @ weight).square() / 2)
    scores, x = outliers.scores_of(of), torch.rand(3, 1, 8, 8)
    assert list(scores) == ["energy", "gradient"]
    with torch.no_grad():
        found = scores["gradient"](x)
    torch.testing.assert_close(found, (x.flatten(1) @ weight).abs() * weight.norm())
    assert not found.requires_grad and not x.requires_grad


def test_a_system_offers_the_scores_that_it_has_networks_for():
    pair = {"decode": lambda z: z.sum(1)[:, None, None, None].expand(-1, 1, 8, 8), "encode": lambda x: torch.zeros(len(x), 4)}
    assert list(outliers.scores_of(subject(**pair))) == ["reconstruction"]
    assert list(outliers.scores_of(subject(**pair, bound=lambda x: x.sum()))) == ["reconstruction", "bound"]
    assert list(outliers.scores_of(subject(energy=lambda x: x, of_pairs=True))) == ["pair_energy", "gradient"]
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(outliers.scores_of(subject(**pair))["reconstruction"](x).float(), x.square().mean((1, 2, 3)))
    with pytest.raises(HiresError, match="neither"):
        outliers.scores_of(subject())
    with pytest.raises(HiresError, match="energy"):
        outliers.named({"energy": None}, torch.tensor([[1.0], [math.nan]]), "detection.against=uniform")


# ------------------------------------------------------------------------------------------------------------ the measures


def test_detection_of_what_is_plain_to_see(shards, tmp_path):
    """By the mean of the left half: constant pictures of a white set are told from digits, training digits are not."""
    folder = tmp_path / "white"
    folder.mkdir()
    for i in range(12):
        Image.new("L", (20, 16), 255 - i).save(folder / f"{i}.png")
    settings = Settings(images=100, detection=detection.Config(against=f"uniform,constant,white:{folder},energy_x:{folder}"))
    found = detection.measure(Material(subject(energy=lambda x: x[..., :4].mean((1, 2, 3))), shards, 100, tmp_path / "out"), settings)
    json.dumps(found)
    (area, low, high), _, (fpr, *_) = found["detection_energy_white"]
    assert min(area, low, high) == pytest.approx(1) and fpr == 0
    (area, low, high), *_ = found["detection_energy_train"]
    assert low < 0.5 < high and 0.35 < area < 0.65 and high - low < 0.2
    assert found["detection_uniform"].startswith("100 against 100") and "Lanczos" in found["detection_white"]
    assert Image.open(tmp_path / "out" / found["detection_histogram"]).size[0] > 500
    others = [found[f"detection_energy_{name}"][0][0] for name in ("uniform", "constant", "white", "energy_x")]
    assert detection.lower(found) == pytest.approx(1 - sum(others) / 4)


@pytest.mark.parametrize("against", ["nonsense", "", "a:", "uniform:x", "a:,a:y", "train:x", "a b:x"])
def test_a_place_that_is_none_is_told_in_one_line(against, monkeypatch):
    with pytest.raises(HiresError, match=r"^detection\.against=[^\n]*$"):
        detection.places(against)
    monkeypatch.setenv("HOME", "/nowhere")
    with pytest.raises(HiresError, match=r"^detection\.against=a:~/b: /nowhere/b: no such"):
        detection.places("a:~/b")
    with pytest.raises(HiresError, match=r"^detection\.against=a:nowhere: nowhere: no such"):
        detection.places("a:nowhere")


def test_fours_that_were_never_trained_on(shards, tmp_path):
    """An energy that knows fours by heart: area 1 whatever the split. One that knows nothing: the prevalence."""
    keys = shards.keys("holdout")
    fours = sum(key.endswith("_4") for key in keys)
    fours_are = {}
    for key, pixels in zip(keys, Loader(shards, 8, "holdout", 0.0).read(range(len(keys))), strict=True):
        fours_are[pixels.contiguous().numpy().tobytes()] = key.endswith("_4")

    def knows(x):
        pixels = ((x + 1) * 127.5).round().to(torch.uint8)
        return torch.tensor([float(fours_are.get(one.contiguous().numpy().tobytes(), False)) for one in pixels])

    for energy, expected in ((knows, 1.0), (lambda x: torch.zeros(len(x)), None)):
        of = subject(energy=lambda x, energy=energy: energy(x.detach()) + 0 * x.sum((1, 2, 3)))
        found = anomaly.measure(Material(of, shards, 100, tmp_path), Settings())
        json.dumps(found)
        assert found["anomaly_labels"] == "4" and found["anomaly_prevalence"] == pytest.approx(fours / (300 + fours))
        for split in ("leak_free", "published"):
            _, precision, auroc = found[f"anomaly_{split}_energy"]
            assert precision == pytest.approx(expected or found["anomaly_prevalence"]) and auroc == pytest.approx(expected or 0.5)
    assert (tmp_path / "anomaly.png").exists()
    trained = shards.count("train")
    assert f"{round(300 * trained / (trained + 300))} of these trained on as published" in found["anomaly_pictures"]


@pytest.mark.parametrize("held,said", [(["a_1", "a_2"], "is also trained on"), (["a_3", "a_4"], "no held-out label is trained on")])
def test_data_that_hold_out_no_class_are_refused_in_one_line(held, said):
    data = SimpleNamespace(root="data", keys={"train": ["b_1", "b_2"], "holdout": held}.get)
    with pytest.raises(HiresError, match=rf"^data=data: [^\n]*{said}[^\n]*measure=anomaly[^\n]*split\.match"):
        anomaly.measure(SimpleNamespace(subject=subject(energy=lambda x: x), shards=data), Settings())


@pytest.mark.slow
def test_runs_of_pairs_and_of_a_vae_are_measured_by_one_command(shards, tiny, world, tmp_path, capsys):
    offered = {"latent_ebm": {"pair_energy", "gradient", "reconstruction"}, "vae": {"reconstruction", "bound"}}
    for name, scores in offered.items():
        run = tmp_path / name
        settings = [*tiny, f"objective={name}", f"data.root={shards.root}", f"run={run}", "schedule.resolution=4"]
        assert Trainer(configuration.load("train", settings), world).train() == 0
        ask = ["evaluate", f"run={run}", f"data={shards.root}", "measure=anomaly,detection,reconstruction", "images=20"]
        assert main([*ask, "anomaly.pictures=60", "detection.against=uniform"]) == 0, capsys.readouterr().err
        found = json.loads(next(run.glob("evaluation-*.json")).read_text())
        assert {key.removeprefix("anomaly_published_") for key in found if key.startswith("anomaly_published_")} == scores
        assert {key for key in found if key.endswith("_uniform")} == {f"detection_{score}_uniform" for score in scores} | {
            "detection_uniform"
        }
        strange = int(found["anomaly_pictures"].split()[0])
        assert found["anomaly_prevalence"] == pytest.approx(strange / 60, abs=0.01)
        assert {path.name for path in run.glob("measures-*/*")} == {"anomaly.png", "detection.png", "reconstruction.png"}
