"""A run that goes on with other shards than it began with says so: the order of images is a function of the shards too."""

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
    assert done.returncode == 0 and "other shards than this run has seen so far" in done.stdout
    done = hires("train", *settings, f"data.root={tmp_path / 'other'}", run, "train.max_images=80")
    assert done.returncode == 0 and "other shards" not in done.stdout
