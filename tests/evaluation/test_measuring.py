"""A training that looks at itself: what it finds is recorded, the best stays, and the training does not notice."""

import json

import pytest

from hires import config as configuration
from hires.bundle import from_run
from hires.checkpoints import reading
from hires.errors import HiresError
from hires.evaluation.measuring import Measuring, measures
from hires.training.trainer import Trainer
from pipelines import PrepareConfig, Shards, SplitConfig, prepare

LOOKS = ["monitor.measures=swd,diversity,reconstruction", "monitor.measures_every=32", "monitor.measures_images=20"]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Digits up to 8x8 with 60 held out."""
    out = tmp_path_factory.mktemp("measured") / "digits"
    prepare(PrepareConfig(source="digits", out=str(out), resolution=8, workers=1, split=SplitConfig(holdout=60)))
    return out


def trained(world, tiny, data, run, *extra):
    """A finished run on `data`, saved every 16 images."""
    overrides = [*tiny, f"data.root={data}", f"run={run}", "train.checkpoint_every=16", *extra]
    assert Trainer(configuration.load("train", overrides), world, measures).train() == 0
    return run


@pytest.fixture(scope="module")
def measured_run(world, tiny, held_out, tmp_path_factory):
    """A run that measures itself and keeps its best by swd and the newest alone."""
    run = tmp_path_factory.mktemp("measured") / "run"
    return trained(world, tiny, held_out, run, *LOOKS, "train.keep_best=swd", "train.keep=1", "train.keep_levels=false")


def test_measures_change_nothing_of_the_training(measured_run, world, tiny, held_out, tmp_path):
    plain = trained(world, tiny, held_out, tmp_path / "plain")
    ends = [reading.read_manifest(reading.complete(run / "checkpoints")[-1]) for run in (measured_run, plain)]
    assert [one["blake3"] for one in ends[0]["files"]] == [one["blake3"] for one in ends[1]["files"]]


def test_measures_are_recorded_where_they_can_be_taken(measured_run):
    records = [json.loads(line) for line in (measured_run / "metrics.jsonl").read_text().splitlines()]
    looks = [one for one in records if "measures" in one]
    assert [one["images"] for one in looks] == [16, 32, 48, 64, 80, 96, 112]  # at each checkpoint, to know the best
    assert [one["level"] for one in looks] == [4, 4, 4, 8, 8, 8, 8]
    for one in looks:
        assert ("swd" in one["measures"]) == (one["level"] == 8)  # its bands begin at 8x8
        assert one["measures"]["diversity"] > 0 and one["measures"]["reconstruction_mse"] > 0


def test_the_best_stays_and_can_be_had(measured_run):
    left = {one["images"]: one for one in map(reading.read_manifest, reading.complete(measured_run / "checkpoints"))}
    records = [json.loads(line) for line in (measured_run / "metrics.jsonl").read_text().splitlines()]
    # 64 and 80 were saved while 8x8 faded in (80 is its last step): their pictures are not those of the level
    swd = {one["images"]: sum(one["measures"]["swd"]) for one in records if one.get("level") == 8 and one["images"] > 80}
    best = min(swd, key=swd.get)
    assert set(left) == {best, 112}
    assert from_run.load(str(measured_run), "best").images == best
    assert left[best]["measured"]["swd"] == pytest.approx(swd[best])


@pytest.mark.parametrize(
    "extra,told",
    [
        (["monitor.measures=fid2"], "monitor.measures=fid2: wanted swd"),
        (["monitor.measures=landscape"], "monitor.measures=landscape: too slow to take while training"),
        (["monitor.measures=swd", "monitor.measures_every=0"], "monitor.measures=swd would never be taken"),
        (["train.keep_best=swd"], "train.keep_best=swd: wanted monitor.measures=swd beside it"),
        (["monitor.measures=swd,reconstruction", "objective=vgan"], "monitor.measures=reconstruction: .* no inference model; say .*=swd"),
    ],
)
def test_what_cannot_be_measured_is_told_before_any_work(extra, told, world, tiny, held_out, tmp_path):
    config = configuration.load("train", [*tiny, f"data.root={held_out}", f"run={tmp_path / 'run'}", *extra])
    with pytest.raises(HiresError, match=told):
        Trainer(config, world, measures)
    assert not (tmp_path / "run").exists()


def test_a_measure_without_what_it_needs_ends_no_training(world, tiny, held_out, tmp_path, monkeypatch):
    monkeypatch.delenv("HIRES_INCEPTION", raising=False)
    run = trained(world, tiny, held_out, tmp_path / "run", "monitor.measures=fidelity", "train.keep_best=fidelity", *LOOKS[1:])
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all("no weights" in one["measures"]["fidelity"] for one in records if "measures" in one)
    assert reading.read_manifest(reading.complete(run / "checkpoints")[-1])["measured"] == {}


def test_networks_of_one_size_can_be_measured(world, held_out, tmp_path):
    wanted = ["experiment=triangle_cifar10", f"data.root={held_out}", f"run={tmp_path / 'run'}", "monitor.measures=diversity"]
    measuring = Measuring(configuration.load("train", wanted), Shards.open(str(held_out)), world, print)
    assert measuring.names == ["diversity"]


def test_data_without_held_out_pictures_are_told(world, tiny, digits, tmp_path):
    config = configuration.load("train", [*tiny, f"data.root={digits}", f"run={tmp_path / 'run'}", "monitor.measures=diversity"])
    with pytest.raises(HiresError, match="0 held-out pictures"):
        Trainer(config, world, measures)
