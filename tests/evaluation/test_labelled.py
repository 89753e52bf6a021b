"""`hires evaluate` with measures that need labels, on runs of seconds on digits; what a run lacks is told in a line."""

import json
import shutil

import pytest
import torch

from hires import config as configuration
from hires.cli import main
from hires.errors import HiresError
from hires.evaluation.material import Material
from hires.evaluation.subject import Subject
from hires.training.trainer import Trainer
from pipelines import PrepareConfig, Shards, SplitConfig, prepare


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Digits at 4x4 and 8x8 with a tenth held out."""
    out = tmp_path_factory.mktemp("labelled") / "digits"
    prepare(PrepareConfig(source="digits", out=str(out), resolution=8, workers=1, split=SplitConfig(holdout=180)))
    return out


@pytest.fixture(scope="module")
def runs(held_out, tiny, world, tmp_path_factory):
    """A folder with a run NAME of each system, 48 images at 4x4."""
    out = tmp_path_factory.mktemp("runs")
    for name in ("vcd", "vgan"):
        extra = [f"objective={name}", f"data.root={held_out}", f"run={out / name}", "schedule.resolution=4"]
        assert Trainer(configuration.load("train", [*tiny, *extra]), world).train() == 0
    return out


def test_pictures_come_with_the_labels_of_their_keys(held_out):
    shards = Shards.open(str(held_out))
    material = Material(Subject("digits", "", 0, 8, 1, 4, 1.0, torch.device("cpu")), shards, 100)
    x, y = material.labelled("train", 3, 5)
    assert x.shape == (5, 1, 8, 8) and x.min() >= -1 and x.max() <= 1
    assert [int(key.split("_")[1]) for key in shards.keys("train")[3:8]] == y.tolist()
    everything = material.labelled("train", 0, shards.count("train"))
    assert torch.equal(everything[0][3:8], x) and len(everything[1]) == shards.count("train")


def test_probe_and_augmentation_of_a_run(runs, held_out, tmp_path):
    out = tmp_path / "measures.json"
    wanted = [
        "measure=probe,augmentation",
        "probe.labels=200",
        "augmentation.labels=200",
        "augmentation.epochs=1",
        "augmentation.width=4",
        "augmentation.oracle=0",
        "images=100",
        f"out={out}",
    ]
    assert main(["evaluate", f"run={runs / 'vcd'}", f"data={held_out}", *wanted]) == 0
    found = json.loads(out.read_text())
    assert found["probe_features"] == 16 and found["probe_labels"] == found["augmentation_labels"] == 200
    assert 0.1 < found["probe_error"] < 0.75  # untrained features of a 4x4 digit still tell some apart
    controls = [f"probe_{name}_error" for name in ("raw", "untrained", "untrained_raw", "pixels", "pixels_raw")]
    assert all(0.1 < found[name] < 0.9 for name in controls)
    assert found["probe_untrained_error"] != found["probe_error"]
    assert found["augmentation_test_pictures"] == 100
    for name in ("plain_error", "augmented_error"):
        assert 0 <= found[name] <= 1


@pytest.mark.parametrize(
    "run,measure,told",
    [
        ("vgan", "augmentation", "vgan.*transition operator .*vcd"),
        ("vgan", "reconstruction", "no inference model"),
        ("vcd", "augmentation", "training pictures"),
    ],
)
def test_what_a_run_or_the_data_lacks_is_told(run, measure, told, runs, held_out, capsys):
    assert main(["evaluate", f"run={runs / run}", f"data={held_out}", f"measure={measure}", "augmentation.labels=1500"]) == 1
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    with pytest.raises(HiresError, match=told):
        raise HiresError(error)


def test_a_look_at_fewer_pictures_takes_nothing_away(runs, held_out, capsys):
    run = runs / "vgan"
    for images in (60, 30, 90):
        assert main(["evaluate", f"run={run}", f"data={held_out}", f"images={images}", "measure=diversity"]) == 0
    aside = run / "measures-000000000048" / "evaluation-of-30.json"
    assert main(["evaluate", f"run={run}", f"data={held_out}", "images=30", "measure=reconstruction"]) == 1  # it has none
    aside.write_text(json.dumps(json.loads(aside.read_text()) | {"earlier": 1.0}))
    assert main(["evaluate", f"run={run}", f"data={held_out}", "images=30", "measure=diversity"]) == 0
    assert json.loads(aside.read_text())["earlier"] == 1.0
    capsys.readouterr()
    place = "000000000048"
    found = {path.name: json.loads(path.read_text())["images"] for path in run.rglob("evaluation-*.json")}
    assert found == {f"evaluation-{place}.json": 90, "evaluation-of-30.json": 30, "evaluation-of-60.json": 60}


def test_without_names_what_fits_is_measured(runs, held_out, tmp_path, capsys):
    """At 4x4 no bands, of a VGAN no reconstruction."""
    assert main(["evaluate", f"run={runs / 'vgan'}", f"data={held_out}", "images=40", f"out={tmp_path / 'a.json'}"]) == 0
    assert str(tmp_path / "a.json") in capsys.readouterr().out
    assert {"diversity"} == json.loads((tmp_path / "a.json").read_text()).keys() - {"of", "data", "resolution", "images"}


def test_a_run_that_cannot_be_written_to_loses_no_measure(runs, held_out, tmp_path, capsys):
    """What was measured is shown and goes into out=, of measures with pictures too; what could not be written is named, with status 1."""
    run, wanted = tmp_path / "run", ["images=40", "measure=reconstruction,diversity", f"out={tmp_path / 'a.json'}"]
    shutil.copytree(runs / "vcd", run, ignore=shutil.ignore_patterns("evaluation-*", "measures-*"))
    (run / "evaluation-000000000048.json").mkdir()
    (run / "measures-000000000048").touch()
    assert main(["evaluate", f"run={run}", f"data={held_out}", *wanted]) == 1
    said, found = capsys.readouterr(), json.loads((tmp_path / "a.json").read_text())
    assert "diversity" in said.out and found.keys() >= {"diversity", "reconstruction_mse"} and "reconstruction_sheet" not in found
    assert all(name in said.err for name in ("measures-000000000048", "evaluation-000000000048.json")) and said.err.count("\n") == 1
