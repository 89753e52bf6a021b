"""The identity of a run's shards, and data that are odd: pictures that are all equal."""

import json

from PIL import Image

from hires import config as configuration
from hires.training.trainer import Trainer
from pipelines import PrepareConfig, Shards, SplitConfig, prepare


def test_the_identity_of_shards_is_their_content_not_their_place(digits, tmp_path):
    for name, split in (("same", SplitConfig()), ("other", SplitConfig(holdout=100))):
        prepare(PrepareConfig(source="digits", out=str(tmp_path / name), resolution=16, split=split, workers=1))
    assert Shards.open(digits).identity == Shards.open(tmp_path / "same").identity
    assert Shards.open(digits).identity != Shards.open(tmp_path / "other").identity


def test_a_run_resumed_on_other_shards_says_so(hires, tiny, digits, tmp_path):
    prepare(PrepareConfig(source="digits", out=str(tmp_path / "other"), resolution=16, split=SplitConfig(holdout=100), workers=1))
    run = f"run={tmp_path / 'run'}"
    assert hires("train", *tiny, run, "train.max_images=32").returncode == 0
    settings = [setting for setting in tiny if not setting.startswith("data.root=")]
    done = hires("train", *settings, f"data.root={tmp_path / 'other'}", run, "train.max_images=64")
    assert done.returncode == 0 and "not the shards that this run has seen so far" in done.stdout
    done = hires("train", *settings, f"data.root={tmp_path / 'other'}", run, "train.max_images=80")
    assert done.returncode == 0 and "not the shards" not in done.stdout


def test_equal_pictures_train_and_their_log_is_json(world, tiny, tmp_path):
    """Data without spread have no diversity: the trial step does not mind, and metrics.jsonl holds no Infinity."""
    folder = tmp_path / "equal"
    folder.mkdir()
    for i in range(32):
        Image.new("L", (8, 8), 100).save(folder / f"{i:02}.png")
    prepare(PrepareConfig(source="folder", path=str(folder), out=str(tmp_path / "data"), resolution=8, channels=1, workers=1))
    overrides = [f"data.root={tmp_path / 'data'}", f"run={tmp_path / 'run'}", "train.trial=true", "train.max_images=32"]
    assert Trainer(configuration.load("train", [*tiny, *overrides]), world).train() == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    records = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    statuses = [record for record in records if "energy_real" in record]
    assert statuses and not any("diversity" in record for record in statuses)
