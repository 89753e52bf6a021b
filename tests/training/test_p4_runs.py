"""P4's table 1 as small as it goes: labels reach the round with their pictures, a run goes on to the bit, and what hires makes of one."""

from dataclasses import replace
from pathlib import Path
import re
import struct

import numpy as np
import pytest
from safetensors.torch import load_file
import torch

import hires
from hires import config as configuration
from hires.cli import main
from hires.errors import HiresError
from hires.networks import NetworkConfig, build
from hires.planning.memory import level_plans
from hires.training.feed import Feed
from hires.training.schedule import Schedule
from hires.training.trainer import Trainer
from pipelines import PrepareConfig, SplitConfig, prepare

RUN = [
    *("experiment=p4_cifar10_classes", "network.width=0.03", "network.image_channels=1", "network.classes=3", "schedule.levels.32.batch=8"),
    *("schedule.levels.32.micro_batch=4", "schedule.levels.32.stable=32", "objective.chains.steps=1", "objective.chains.replay=16"),
    *("objective.chains.restart=0.5", "objective.warmup=1", "train.threads=1", "train.trial=false", "train.checkpoint_every=16"),
    *("monitor.samples=4", "monitor.snapshot_every=1k"),
]


BY_CLASS = re.compile(r"(bias0|bias1|gain)/")


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """`labelled`: 64 pictures at 32x32, each one grey, 100 times its label 0, 1 or 2, and a few held out; `plain`: the same without."""
    out = tmp_path_factory.mktemp("p4")
    labels = np.random.default_rng(0).permutation(np.arange(64, dtype=np.uint8) % 3)
    for name in ("labelled", "plain"):
        files = out / f"{name}-files"
        files.mkdir()
        (files / "train-images-idx3-ubyte").write_bytes(idx(np.broadcast_to(100 * labels[:, None, None], (64, 28, 28)).copy()))
        if name == "labelled":
            (files / "train-labels-idx1-ubyte").write_bytes(idx(labels))
        prepare(PrepareConfig(path=str(files), out=str(out / name), resolution=32, workers=1, split=SplitConfig(holdout=4)))
    return out


def settings(sets: Path, *more: str, data: str = "labelled"):
    return configuration.load("train", [*RUN, f"data.root={sets / data}", f"run={sets / 'run'}", *more])


@pytest.fixture(scope="module")
def runs(sets, world) -> Path:
    """The runs `whole` and `whole-bf16`, and `parts` and `parts-bf16`, stopped at their halves."""
    for precision, end in (("fp32", ""), ("bf16", "-bf16")):
        for name, moments in (("whole", ("32",)), ("parts", ("16", "32"))):
            for images in moments:
                words = f"run={sets / name}{end}", f"train.max_images={images}", f"train.precision={precision}"
                assert Trainer(settings(sets, *words), world).train() == 0
    return sets


def test_each_rank_has_the_labels_of_its_pictures(sets, world):
    config = settings(sets)
    schedule = Schedule(config.schedule)
    for size in (1, 2):
        feeds = [Feed(config, schedule, replace(world, rank=rank, size=size), 32) for rank in range(size)]
        for images in (0, 8, 56):  # the last goes over into the next epoch
            for feed in feeds:
                phase = replace(schedule.at(0), images=images)
                assert torch.equal(feed.labels(phase) * 100, feed.of(phase)[:, 0, 7, 9]) and len(feed.labels(phase)) == 8 // size


@pytest.mark.parametrize("end", ["", "-bf16"])
def test_a_run_with_labels_and_spectral_norms_goes_on_to_the_bit(runs, end):
    folders = (runs / f"{name}{end}" / "checkpoints" / "images-000000000032" for name in ("whole", "parts"))
    whole, parts = (sorted(folder.glob("*.safetensors")) for folder in folders)
    assert [path.name for path in whole] == [path.name for path in parts]
    moments = {}
    for a, b in zip(whole, parts, strict=True):
        first, second = load_file(a), load_file(b)
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
        moments |= {key: bool(tensor.any()) for key, tensor in first.items() if "/exp_avg" in key and BY_CLASS.search(key)}
    assert len(moments) == 2 * 2 * 6 * 3 and all(moments.values())  # of two players, two moments of each of six blocks' three


def test_its_bundle_draws_each_seed_of_its_class(runs):
    assert main(["export", f"run={runs / 'whole'}", f"out={runs / 'bundle'}"]) == 0
    bundle = hires.load(runs / "bundle")
    assert bundle.variational is None and "class n modulo 3" in (runs / "bundle" / "README.md").read_text()
    seen = []

    def energy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(y.tolist())
        return bundle.energy(x, y)

    x = replace(bundle, energy=energy).sample([0, 4, 8, 3], steps=1)
    assert seen == [[0, 1, 2, 0]] and x.shape == (4, 1, 32, 32)
    each = torch.stack([bundle.energy(x, torch.full((4,), y)) for y in range(3)])
    torch.testing.assert_close(bundle.score(x), -torch.log(torch.exp(-each).sum(0)))


def test_evaluate_draws_and_says_what_it_has_not(runs, capsys):
    words = [f"run={runs / 'whole'}", f"data={runs / 'labelled'}", "images=4"]
    assert main(["evaluate", *words, "measure=diversity"]) == 0
    assert main(["evaluate", *words, "measure=probe"]) == 1
    assert "has no features of an energy" in capsys.readouterr().err


def test_the_plan_counts_what_the_classes_add(sets):
    config = settings(sets)
    one = level_plans(config, Schedule(config.schedule), 1)[0]
    plain = NetworkConfig(**vars(config.network) | {"classes": 0})
    without = sum(p.numel() for p in build(plain, "energy", 32).parameters())
    inputs, outputs = [4, 4, 4, 8, 8, 8], [4, 4, 8, 8, 8, 8]
    assert one.parameters["energy"] - without == 3 * (sum(inputs) + 2 * sum(outputs))


@pytest.mark.parametrize(
    ("words", "data", "told"),
    [
        ([], "plain", "network.classes=3: .*has no label; wanted keys that end in one"),
        (["network.classes=2"], "labelled", "has labels up to 2; wanted network.classes=3"),
        (["network.classes=4"], "labelled", "has labels up to 2; wanted network.classes=3"),
    ],
)
def test_what_has_no_such_labels_is_refused_in_a_line(words, data, told, sets, world):
    with pytest.raises(HiresError, match=told) as refusal:
        Trainer(settings(sets, *words, data=data), world)
    assert "\n" not in str(refusal.value)
