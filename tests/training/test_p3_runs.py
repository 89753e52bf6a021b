"""VCD as published at 28 pixels, a sixteenth as wide: Adadelta's state goes on from a checkpoint to the bit."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

import hires
from hires import config as configuration
from hires.cli import main
from hires.errors import HiresError
from hires.training.game import check
from hires.training.schedule import LevelConfig, Schedule, ScheduleConfig
from hires.training.trainer import Trainer
from pipelines import PrepareConfig, Shards, SplitConfig, prepare

RUN = [
    *("experiment=p3_vcd_mnist", "network.width=0.0625", "network.latent=7", "schedule.levels.28.batch=16", "schedule.levels.28.stable=64"),
    *("schedule.levels.28.lr=1.0", "train.threads=1", "train.trial=false", "train.checkpoint_every=32", "train.keep=99"),
    *("monitor.samples=4", "monitor.snapshot_every=1k"),
]


@pytest.fixture(scope="module")
def at_28(tmp_path_factory) -> Path:
    """Digits at 28x28, a tenth held out."""
    out = tmp_path_factory.mktemp("p3") / "digits28"
    prepare(PrepareConfig(source="digits", out=str(out), resolution=28, workers=1, allow_upscale=True, split=SplitConfig(holdout=180)))
    return out


@pytest.fixture(scope="module")
def runs(at_28, world) -> Path:
    """A folder with the run `whole`, and `parts`, stopped at its half."""
    for name, moments in (("whole", ("64",)), ("parts", ("32", "64"))):
        for images in moments:
            words = [*RUN, f"data.root={at_28}", f"run={at_28.parent / name}", f"train.max_images={images}"]
            assert Trainer(configuration.load("train", words), world).train() == 0
    return at_28.parent


def test_a_set_of_28_pixels_has_that_level_alone(at_28):
    assert Shards.open(str(at_28)).levels == [28]


def test_a_run_with_adadelta_goes_on_to_the_bit(runs):
    whole, parts = (sorted((runs / name / "checkpoints" / "images-000000000064").glob("*.safetensors")) for name in ("whole", "parts"))
    assert [path.name for path in whole] == [path.name for path in parts]
    for a, b in zip(whole, parts, strict=True):
        first, second = load_file(a), load_file(b)
        assert first.keys() == second.keys() and all((first[key] == second[key]).all() for key in first)
        assert all(tensor.any() for key, tensor in first.items() if "exp_avg" in key and "head.bias" not in key)


def test_evaluate_says_how_many_labels_are_kept(runs, at_28, capsys):
    words = ["measure=augmentation", "augmentation.labels=100", "augmentation.epochs=1", "augmentation.width=8", "augmentation.oracle=1"]
    assert main(["evaluate", f"run={runs / 'whole'}", f"data={at_28}", "images=100", *words]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("oracle_accuracy", "kept_by_transitions", "kept_by_reconstructions", "kept_by_chance"))


def test_without_a_measure_evaluate_takes_what_there_is_at_28_pixels(runs, at_28, capsys):
    assert main(["evaluate", f"run={runs / 'whole'}", f"data={at_28}", "images=20"]) == 0
    out = capsys.readouterr().out
    assert "diversity" in out and "reconstruction" in out and "swd" not in out


def test_the_plan_counts_its_memory(capsys):
    assert main(["plan", *RUN]) == 0
    assert "28x28" in capsys.readouterr().out


def test_its_bundle_gives_pictures_codes_and_energies(runs):
    assert main(["export", f"run={runs / 'whole'}", f"out={runs / 'bundle'}"]) == 0
    bundle = hires.load(runs / "bundle")
    x = bundle.sample([1, 2, 3])
    assert x.shape == (3, 1, 28, 28) and x.std() > 0
    mu, logvar = bundle.infer(x)
    assert mu.isfinite().all() and (logvar == -20).all() and bundle.score(x).shape == (3,)
    assert bundle.reconstruct(x).shape == x.shape


@pytest.mark.parametrize(
    ("words", "processes", "told"),
    [
        (["zero=stage1"], 2, "adadelta with zero.stage=1 on 2 processes"),
        (["schedule.levels.28.micro_batch=8"], 1, "micro_batch=8: the batch norm"),
        (["network=slim", "network.width=1"], 1, "growing networks are of powers of two"),
        (["objective=vae"], 1, "network.kind=p3 with objective=vae"),
        (["network.energy_norm=layer"], 1, "network.energy_norm=layer with network.kind=p3: wanted network=dcgan32 or dcgan64"),
        (["network=dcgan32", "objective=vae", "network.energy_norm=layer"], 1, "energy_norm=layer: objective=vae has generator, inference"),
    ],
)
def test_what_cannot_train_is_refused_in_a_line(words, processes, told):
    config = configuration.load("train", [*RUN, "run=none", "data.root=none", *words])
    with pytest.raises(HiresError, match=told) as refusal:
        check(config, Schedule(config.schedule), processes)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("levels", [[30], [28, 32], [28, 56]])
def test_sizes_that_are_no_power_of_two_are_multiples_of_four_and_alone(levels):
    with pytest.raises(HiresError, match="power of two, at least 4; alone"):
        Schedule(ScheduleConfig(levels={str(r): LevelConfig(stable="100") for r in levels}))
