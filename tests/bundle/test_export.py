"""`hires export`: which checkpoint, what the bundle says of itself, and one line and no half bundle where it cannot be."""

import hashlib
import json
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

from hires import config as configuration
from hires.bundle import card, from_run, hires_bundle
from hires.bundle.writing import write_bundle
from hires.checkpoints import reading
from hires.cli import main
from hires.errors import HiresError
from hires.training.trainer import Trainer
from hires.verbs import demo


@pytest.fixture(scope="module")
def trained(world, tiny, tmp_path_factory):
    """A run with checkpoints stable at 4x4 (32 and 48 images), fading (64 and 80) and stable at 8x8 (96 and 112); not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    assert Trainer(configuration.load("train", [*tiny, f"run={run}"]), world).train() == 0
    return run


@pytest.fixture
def own(trained, tmp_path):
    """A copy of it to break."""
    return Path(shutil.copytree(trained, tmp_path / "own"))


@pytest.fixture
def export(capsys, tmp_path):
    """export(*overrides) -> (exit status, what was printed, the error) of `hires export out=TMP/out …`."""

    def call(*overrides: str) -> tuple[int, str, str]:
        status = main(["export", f"out={tmp_path / 'out'}", *map(str, overrides)])
        return status, *capsys.readouterr()

    return call


def test_the_runs_checkpoints_are_those_that_these_tests_speak_of(trained):
    assert from_run.list_stable(str(trained)) == [(32, 4), (48, 4), (96, 8), (112, 8)]
    fading = from_run.load(str(trained), "64")
    assert (fading.images, fading.resolution, fading.fading) == (64, 8, True) and 0 < fading.alpha < 1
    assert fading.networks["generator"](torch.zeros(1, 8), fading.alpha).shape == (1, 1, 8, 8)


def test_a_demo_that_is_cut_short_in_a_fade_in_exports_what_is_stable_before_it(own):
    for images in (96, 112):
        shutil.rmtree(own / f"checkpoints/images-{images:012d}")
    assert from_run.load(str(own)).fading and demo.newest_stable(own) == ["at=48"]


@pytest.mark.parametrize(
    ("overrides", "images", "resolution"),
    [
        ([], 112, 8),
        (["at=111"], 96, 8),
        (["resolution=4"], 48, 4),
        (["resolution=4", "at=47"], 32, 4),
        (["resolution=8", "at=1k"], 112, 8),
    ],
)
def test_at_and_resolution_pick_the_newest_that_fits(trained, overrides, images, resolution, monkeypatch, tmp_path):
    written = {}
    monkeypatch.setattr("hires.verbs.export.write_bundle", lambda *given: written.update(given=given))
    assert main(["export", f"run={trained}", f"out={tmp_path / 'out'}", *overrides]) == 0
    _, network, size, networks, info, formats, chains, moments = written["given"]
    assert chains is None  # of a system with a generator alone
    assert (size, info["images_seen"], formats, network.latent, moments.pictures) == (resolution, images, [], 8, 1797)
    saved = reading.Checkpoint(trained / "checkpoints" / reading.folder_name(images))
    for player, loaded in networks.items():  # the moving averages of that checkpoint, and not the weights
        ema = {n: saved.read(player, n, "ema", 0, saved.numel(player, n)) for n in saved.names(player)}
        assert all(torch.equal(p.flatten(), ema[n]) for n, p in loaded.named_parameters())
        assert any(not torch.equal(ema[n], saved.read(player, n, "weight", 0, ema[n].numel())) for n in ema)


@pytest.fixture(scope="module")
def bundle(trained, tmp_path_factory):
    """The run's newest checkpoint, exported for real."""
    out = tmp_path_factory.mktemp("bundles") / "digits"
    assert main(["export", f"run={trained}", f"out={out}"]) == 0
    return out


def test_config_and_card_tell_where_it_comes_from(bundle, trained):
    config = json.loads((bundle / "config.json").read_text())
    commit = json.loads((trained / "environment.json").read_text())["commit"]
    expected = {"run": "digits", "images_seen": 112, "seed": 0, "data": "digits", "data_pictures": {"train": 1797, "holdout": 0}}
    expected["energy_weight"] = 10.0  # divergence_triangle's default
    assert expected.items() <= config["info"].items()
    assert config["info"]["commit"] == ("not recorded" if commit == "unknown" else commit)
    text = (bundle / "README.md").read_text()
    for line in ("- images seen: 112", "8x8 pictures", "(B, 1, 8, 8) float", "(B, 8) float", f"- commit: {config['info']['commit']}"):
        assert line in text
    assert str(trained) not in text + json.dumps(config)
    assert "{" not in text and "not recorded" in text  # the digits' licence


def test_the_cards_head_is_what_model_hubs_read(bundle):
    _, head, _ = (bundle / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["license"] == "unknown" and head["library_name"] == "pytorch"
    assert "energy-based-model" in head["tags"] and all(isinstance(tag, str) for tag in head["tags"])


@pytest.mark.parametrize(
    ("licence", "head"),
    [
        ("CC BY-NC 4.0", {"license": "cc-by-nc-4.0"}),
        ("MIT", {"license": "mit"}),
        ("research only: ask first!", {"license": "other", "license_name": "research-only-ask-first"}),
        ("???", {"license": "unknown"}),
    ],
)
def test_a_licence_is_told_as_hubs_know_it(bundle, licence, head):
    document = json.loads((bundle / "config.json").read_text())
    document["info"]["data_licence"] = licence
    text = card.card(document, "digits", [])
    assert head.items() <= yaml.safe_load(text.split("---\n", 2)[1]).items()
    assert f"Training data: {licence}. " in text


def test_the_cards_hashes_are_those_of_its_files_and_pictures(bundle, tmp_path):
    done = subprocess.run(["sha256sum", "--check", "README.md"], cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) >= {"generator.safetensors:", "inference.safetensors:", "energy.safetensors:", "hires_bundle.py:", "OK"}
    config = json.loads((bundle / "config.json").read_text())
    assert config["sha256"]["energy.safetensors"] == hashlib.sha256((bundle / "energy.safetensors").read_bytes()).hexdigest()
    # the card's own lines, run by a stranger
    loading, hashing = re.findall(r"```python\n(.*?)```", (bundle / "README.md").read_text(), re.DOTALL)
    code = f"import hashlib, sys\nsys.modules['hires'] = None\nimport torch; torch.set_num_threads(1)\n{loading}\nfound = \\\n{hashing}"
    code = code.replace("this/folder", str(bundle)).replace("found = \\\npixels", "pixels").replace("\n[hashlib", "\nfound = [hashlib")
    code += "print(*found)"
    done = subprocess.run([sys.executable, "-I", "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert dict(zip("012", done.stdout.split(), strict=True)) == config["seed_pictures_sha256"]
    assert len(set(config["seed_pictures_sha256"].values())) == 3


def test_licence_and_counts_come_from_the_shards_where_they_are_still_those(trained, digits, tmp_path):
    loaded = from_run.load(str(trained))

    def facts(root) -> tuple:
        loaded.config.data.root = str(root)
        found = card.facts(loaded, str(trained))
        return found["data"], found["data_licence"], found["data_pictures"]

    manifest = json.loads((digits / "manifest.json").read_text())
    (tmp_path / "faces").mkdir()
    there = tmp_path / "faces" / "manifest.json"
    there.write_text(json.dumps(manifest | {"licence": "CC BY 4.0"}))
    assert facts(tmp_path / "faces") == ("faces", "CC BY 4.0", {"train": 1797, "holdout": 0})
    manifest["shards"]["train"][0]["levels"]["4"]["sha256"] = "0" * 64  # other pictures than the run has seen
    there.write_text(json.dumps(manifest | {"licence": "CC BY 4.0"}))
    assert facts(tmp_path / "faces") == ("faces", card.UNKNOWN, card.UNKNOWN)
    there.write_text("{")
    assert facts(tmp_path / "faces") == ("faces", card.UNKNOWN, card.UNKNOWN)
    assert facts(tmp_path / "gone") == ("gone", card.UNKNOWN, card.UNKNOWN)
    assert facts("https://example.org/sets/bedrooms/") == ("bedrooms", card.UNKNOWN, card.UNKNOWN)


def test_metrics_of_that_checkpoint_are_on_the_card(own):
    result = {"resolution": 8, "images": 197, "swd": [1.25, 3.0], "reconstruction_mse": 0.0123456}
    (own / "evaluation-000000000112.json").write_text(json.dumps({"of": "/place/run", "data": "/place/data"} | result))
    (own / "evaluation-000000000096.json").write_text(json.dumps(result | {"swd": [9.0, 9.0]}))
    found = card.facts(from_run.load(str(own)), str(own))
    assert found["metrics"] == result  # without places on this machine
    document = {"kind": "growing", "resolution": 8, "latent": 8, "image_channels": 1, "energy_form": "softplus", "info": found}
    text = card.card(document | {"sha256": {}, "seed_pictures_sha256": {}}, "b", [])
    assert "| swd | 1.25, 3 |" in text and "| reconstruction_mse | 0.01235 |" in text and "197 held-out pictures" in text
    (own / "evaluation-000000000112.json").write_text('{"swd": ')
    with pytest.raises(HiresError, match=r"evaluation-000000000112.json: cannot be read .* mend or delete it"):
        card.facts(from_run.load(str(own)), str(own))


STABLE = r"4x4 \(48 images\), 8x8 \(112 images\)"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resolution=16"], rf"run=\S+: no checkpoint stable at 16x16; stable ones: {STABLE}$"),
        (["resolution=7"], rf"no checkpoint stable at 7x7; stable ones: {STABLE}$"),
        (["resolution=8", "at=80"], r"no checkpoint stable at 8x8 at or before 80 images; stable ones .*: 4x4 \(48 images\)$"),
        (["at=80"], rf"images-000000000080: 8x8 is fading in there \(α = 0\.\d\d\), .* resolution=… or at=…: {STABLE}$"),
        (["at=31"], r"the first checkpoint is images-000000000032, none at or before at=31$"),
        (["at=soon"], r"at=soon"),
        (["resolution=large"], r"resolution=large: wanted a whole number$"),
        (["formats=onnx,tflite"], r"formats=onnx,tflite: 'tflite', wanted onnx, pt2"),
    ],
)
def test_what_a_run_has_not_is_told_in_one_line(trained, export, tmp_path, overrides, message):
    status, printed, error = export(f"run={trained}", *overrides)
    assert status == 1 and printed == ""
    assert error.startswith("hires export: error: ") and error.count("\n") == 1
    assert re.search(message, error.strip()), error
    assert list(tmp_path.iterdir()) == []


def test_no_run_and_no_checkpoint_are_told_in_one_line(export, tmp_path):
    (tmp_path / "empty" / "checkpoints" / "images-000000000032").mkdir(parents=True)  # without a manifest: never finished
    for run, message in (("nowhere", "no such folder"), ("empty", "no complete checkpoint in")):
        status, _, error = export(f"run={tmp_path / run}")
        assert status == 1 and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def cut(shard: Path) -> str:
    shard.write_bytes(shard.read_bytes()[:-5])
    return "bytes, wanted"


def flip(shard: Path) -> str:
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1  # one bit of one weight: the file still reads
    shard.write_bytes(data)
    return "does not have the hash it was written with"


def remove(shard: Path) -> str:
    shard.unlink()
    return "is missing"


def scribble(shard: Path) -> str:
    (shard.parent / reading.MANIFEST).write_text("{")
    return "unreadable manifest"


@pytest.mark.parametrize("damage", [cut, flip, remove, scribble])
@pytest.mark.parametrize("asked", [[], ["resolution=8"]])
def test_a_damaged_checkpoint_is_told_in_one_line_and_the_one_before_exports(own, export, tmp_path, damage, asked):
    shard = next((own / "checkpoints" / "images-000000000112").glob("*.safetensors"))
    message = damage(shard)
    status, _, error = export(f"run={own}", *asked)
    assert status == 1 and error.count("\n") == 1
    assert "images-000000000112: damaged checkpoint: " in error and message in error and "at=…" in error
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    assert from_run.load(str(own), "111", 8).images == 96


def test_a_name_that_is_taken_is_told_before_any_work(trained, export, tmp_path, monkeypatch):
    monkeypatch.setattr(from_run, "load", None)
    (tmp_path / "out").mkdir()
    status, _, error = export(f"run={trained}")
    assert status == 1 and "out: exists already" in error


def test_a_bundle_of_another_version_is_told_in_one_line(bundle, tmp_path, capsys):
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"format": 99}))
    assert main(["sample", f"sampler={other}", f"out={tmp_path / 'grid.png'}"]) == 1
    error = capsys.readouterr().err
    assert "bundle format 99, this loader reads 1" in error and error.count("\n") == 1
    assert not (tmp_path / "grid.png").exists()


@pytest.mark.parametrize("kilobytes", [8, 24, 40, 56])
def test_a_full_disk_leaves_nothing(trained, tmp_path, kilobytes):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={kilobytes}k"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"this user cannot mount a small file system: {made.stderr.strip()}")
    try:
        loaded = from_run.load(str(trained))
        with pytest.raises(HiresError, match="No space left on device") as caught:
            write_bundle(disk / "bundle", loaded.config.network, 8, loaded.networks, {})
        assert "\n" not in str(caught.value)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_bundle_gives_the_checkpoints_pictures(bundle, trained, same_network):
    loaded, handed = from_run.load(str(trained)), hires_bundle.load(bundle)
    (pictures,) = same_network(handed.generator, loaded.networks["generator"], handed.latents([5, 6]))
    assert pictures.shape == (2, 1, 8, 8)


def test_a_system_without_a_generator_is_told_in_one_line(tiny, world, digits, tmp_path, capsys):
    run = tmp_path / "energy"
    chains = ["objective=contrastive_divergence", "objective.chains.steps=1", "objective.chains.replay=32"]
    changed = [f"run={run}", *chains, "train.max_images=48"]
    assert Trainer(configuration.load("train", [*tiny, *changed]), world).train() == 0
    asked = [["evaluate", f"data={digits}", "measure=reconstruction"], ["video", "growth", f"out={tmp_path / 'g.gif'}"]]
    for verb, *rest in asked:
        capsys.readouterr()
        assert main([verb, *rest, f"run={run}"]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "no generator" in line and str(run) in line, line
