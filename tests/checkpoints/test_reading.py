"""Checkpoints: whatever was cut is read whole, what is damaged is refused in words, and nothing in a folder is trusted with code."""

from itertools import pairwise
import json
import os
from pathlib import Path
import pickle
import shutil

from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest
import torch
from torch import nn

from hires.checkpoints import reading, writing
from hires.checkpoints.fragments import FIELDS, Fragment
from hires.checkpoints.retention import Policy, hidden
from hires.errors import HiresError
from tests.processes.cut import Cut

INFO = {"resolution": 8, "fading": False, "config": {}}


@st.composite
def cuttings(draw):
    """({name: size}, [(name, start, numel) in any order])."""
    sizes = {f"levels.{4 * 2**i}x{4 * 2**i}.w": draw(st.integers(1, 50)) for i in range(draw(st.integers(1, 3)))}
    pieces = []
    for name, size in sizes.items():
        edges = sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=6))})
        pieces += [(name, a, b - a) for a, b in pairwise(edges)]
    return sizes, draw(st.permutations(pieces))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuttings(), st.data())
def test_any_cutting_is_read_whole_and_in_parts(world, tmp_path_factory, cutting, data):
    sizes, pieces = cutting
    whole = {(n, f): torch.randn(size) for n, size in sizes.items() for f in FIELDS}
    fragments = [Fragment(n, a, "4x4", *(whole[n, f][a : a + size] for f in FIELDS)) for n, a, size in pieces]
    folder = tmp_path_factory.mktemp("cut")
    path = writing.save(folder, {"energy": Cut("energy", nn.Module(), fragments)}, 96, INFO)
    checkpoint = reading.Checkpoint(path)
    assert checkpoint.names("energy") == set(sizes) and checkpoint.images == 96
    for (name, field), tensor in whole.items():
        assert checkpoint.numel("energy", name, field) == len(tensor)  # every element once
        assert torch.equal(checkpoint.read("energy", name, field, 0, len(tensor)), tensor)
        start = data.draw(st.integers(0, len(tensor) - 1))
        numel = data.draw(st.integers(1, len(tensor) - start))
        assert torch.equal(checkpoint.read("energy", name, field, start, numel), tensor[start : start + numel])
    name, size = next(iter(sizes.items()))
    with pytest.raises(HiresError, match="elements"):
        checkpoint.read("energy", name, "weight", 0, size + 1)
    shutil.rmtree(folder)


# ---------------------------------------------------------------------------------------------- through real players


@pytest.mark.parametrize("there", [0, 1, 2, 3])
@pytest.mark.parametrize("here", [0, 1, 3])
def test_a_checkpoint_of_one_stage_is_read_by_another(here, there, make_player, trained, tmp_path):
    first = make_player("inference", stage=here)
    trained(first, 3)
    saved = {field: first.gather(field) for field in FIELDS}
    path = writing.save(tmp_path, {"inference": first}, 64, INFO)
    second = make_player("inference", stage=there)
    checkpoint = reading.Checkpoint(path)
    # what the trainer does: network first, engine over it, then the engine's own fp32 state
    checkpoint.load_network(network := _fresh("inference"), "inference")
    assert all(torch.equal(p, saved["weight"][n]) for n, p in network.named_parameters())
    checkpoint.load_optimizer(second, moments=True)
    for field, tensors in saved.items():
        found = second.gather(field)
        assert all(torch.equal(found[n], tensors[n]) for n in tensors), field
    assert second.steps() == first.steps() == {"4x4": 3, "8x8": 3}
    first.destroy(), second.destroy()


def _fresh(player: str, resolution: int = 8) -> nn.Module:
    from hires import networks
    from hires.networks import NetworkConfig

    return networks.build(NetworkConfig(latent=6, channels_base=64, channels_max=8, convs=1, image_channels=1), player, resolution)


@pytest.mark.parametrize("moments", [True, False])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_grown_player_takes_what_there_is(stage, moments, make_player, trained, tmp_path):
    small = make_player(stage=stage)
    trained(small, 3)
    old = {field: small.gather(field) for field in FIELDS}
    checkpoint = reading.Checkpoint(writing.save(tmp_path, {"energy": small}, 64, INFO))
    large = make_player("energy", 16, True, stage)
    fresh = large.gather("weight")
    checkpoint.load_optimizer(large, moments)
    for field in FIELDS:
        found = large.gather(field)
        for name, tensor in found.items():
            if name not in old["weight"]:  # the added level starts as it was made, without moments
                assert torch.equal(tensor, fresh[name] if field in ("weight", "ema") else torch.zeros_like(tensor))
            elif moments or field in ("weight", "ema"):
                assert torch.equal(tensor, old[field][name])
            else:
                assert not tensor.any()
    # the new level counts its own steps, so Adam's bias correction is right
    assert large.steps() == ({"4x4": 3, "8x8": 3, "16x16": 0} if moments else {"4x4": 0, "8x8": 0, "16x16": 0})
    trained(large, 1, 0.5, 16)
    assert large.steps()["16x16"] == 1 and large.steps()["8x8"] == (4 if moments else 1)
    small.destroy(), large.destroy()


def test_a_checkpoint_of_another_network_is_refused_naming_the_parameter(make_player, tmp_path):
    from hires.networks import Energy, Generator, NetworkConfig

    player = make_player()
    checkpoint = reading.Checkpoint(writing.save(tmp_path, {"energy": player}, 0, INFO))
    other = Energy(NetworkConfig(latent=6, channels_base=64, channels_max=4, convs=1, image_channels=1), 8)
    with pytest.raises(HiresError, match=r"levels\.4x4.*another network"):
        checkpoint.load_network(other, "energy")
    with pytest.raises(HiresError, match="another network"):
        checkpoint.load_network(Generator(NetworkConfig(latent=6, channels_base=64, channels_max=4), 8), "generator")
    larger = _fresh("energy", 16)
    with pytest.raises(HiresError, match=r"energy lacks levels\.16x16.*another network"):
        checkpoint.load_network(larger, "energy")
    checkpoint.load_network(larger, "energy", grown=True)
    player.destroy()


# ---------------------------------------------------------------------------------------------- damage


@pytest.fixture
def two(tmp_path, world) -> Path:
    """A folder with checkpoints at 32 and 64 images."""
    weight = torch.arange(1000.0)
    for images in (32, 64):
        piece = Fragment("levels.4x4.w", 0, "4x4", weight + images, weight, weight, weight)
        writing.save(tmp_path, {"energy": Cut("energy", nn.Module(), [piece])}, images, INFO)
    return tmp_path


def shard(path: Path) -> Path:
    return next(path.glob("*.safetensors"))


def flip(path: Path) -> None:
    data = bytearray(shard(path).read_bytes())
    data[-100] ^= 1
    shard(path).write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(shard(path), 500)


def flip_manifest(path: Path) -> None:
    text = (path / reading.MANIFEST).read_text()
    assert '"4x4": 7' in text
    (path / reading.MANIFEST).write_text(text.replace('"4x4": 7', '"4x4": 5'))  # one bit: Adam's step would be another


def garble(path: Path) -> None:
    (path / reading.MANIFEST).write_text("{nonsense")


def halve(path: Path) -> None:
    text = (path / reading.MANIFEST).read_text()
    (path / reading.MANIFEST).write_text(text[: len(text) // 2])


def list_manifest(path: Path) -> None:
    (path / reading.MANIFEST).write_text("[]")


def another_format(path: Path) -> None:
    manifest = json.loads((path / reading.MANIFEST).read_text())
    (path / reading.MANIFEST).write_text(json.dumps(manifest | {"format": 99}))


DAMAGE = [flip, truncate, lambda path: shard(path).unlink(), flip_manifest, garble, halve, list_manifest, another_format]
NAMES = ["flipped bit", "truncated", "missing shard", "flipped digit", "garbled manifest", "half manifest", "a list", "another format"]


@pytest.mark.parametrize("damage", DAMAGE, ids=NAMES)
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(damage, two):
    told = []
    assert reading.newest_valid(two, told.append) == two / reading.folder_name(64) and not told
    damage(two / reading.folder_name(64))
    assert reading.newest_valid(two, told.append) == two / reading.folder_name(32)
    assert len(told) == 1 and reading.folder_name(64) in told[0] and "\n" not in told[0]
    found = reading.from_first_rank(two, told.append)
    assert found.images == 32 and found.read("energy", "levels.4x4.w", "weight", 0, 3).tolist() == [32, 33, 34]
    damage(two / reading.folder_name(32))
    assert reading.newest_valid(two, told.append) is None


def test_a_damaged_newer_checkpoint_is_not_kept_in_place_of_good_ones(two):
    """With train.keep=1, what was saved after resuming from 32 would go, and the damaged 64 would stay."""
    flip(two / reading.folder_name(64))
    assert reading.from_first_rank(two, lambda text: None).images == 32
    shutil.copytree(two / reading.folder_name(32), two / reading.folder_name(48))
    manifest = reading.read_manifest(two / reading.folder_name(48)) | {"images": 48}
    (two / reading.folder_name(48) / reading.MANIFEST).write_text(reading.manifest_text(manifest))
    writing.retain(two, Policy(1))
    assert reading.complete(two) == [two / reading.folder_name(48)]
    assert (two / f"damaged-{reading.folder_name(64)}").is_dir()  # and is not lost


def test_nothing_begins_again_where_all_are_damaged(two):
    for path in reading.complete(two):
        flip(path)
    with pytest.raises(HiresError, match="none of its checkpoints is intact"):
        reading.from_first_rank(two, lambda text: None)
    assert reading.from_first_rank(two / "nothing") is None


def test_what_was_never_committed_is_no_checkpoint(two):
    whole = two / reading.folder_name(64)
    half = two / reading.folder_name(96)
    shutil.copytree(whole, half)
    (half / reading.MANIFEST).unlink()  # killed before the manifest
    shutil.copytree(whole, two / f".{reading.folder_name(128)}.writing")  # killed before the rename
    shutil.copytree(whole, two / "images-final")
    assert reading.complete(two) == [two / reading.folder_name(32), whole]
    assert reading.newest_valid(two, pytest.fail) == whole
    with pytest.raises(HiresError, match="is not complete"):
        reading.Checkpoint(half)
    # and a save of the same moment goes over what a killed one left
    piece = Fragment("levels.4x4.w", 0, "4x4", *[torch.ones(3)] * 4)
    path = writing.save(two, {"energy": Cut("energy", nn.Module(), [piece])}, 128, INFO)
    assert reading.verify(path) is None and not list(two.glob(".*"))


def rewrite(path: Path, entries: list[dict]) -> None:
    manifest = json.loads((path / reading.MANIFEST).read_text())
    del manifest["sha256"]
    (path / reading.MANIFEST).write_text(reading.manifest_text(manifest | {"files": entries}))


def entry_of(file: Path, name: str) -> dict:
    return {"name": name, "bytes": file.stat().st_size, "blake3": blake3(file.read_bytes()).hexdigest()}


@pytest.mark.parametrize("name", ["../outside.safetensors", "{absolute}", "sub/../../outside.safetensors", ".."])
def test_a_manifest_cannot_point_outside_its_folder(name, two):
    path = two / reading.folder_name(64)
    outside = two / "outside.safetensors"
    shutil.move(shard(path), outside)
    rewrite(path, [entry_of(outside, name.format(absolute=outside))])
    assert reading.verify(path) is not None
    with pytest.raises(HiresError):
        reading.Checkpoint(path)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


def test_nothing_is_ever_unpickled(two, tmp_path, monkeypatch):
    """Every file of a checkpoint is JSON or safetensors, and a pickle with a right hash in a shard's place is refused, not run."""
    path, crater = two / reading.folder_name(64), tmp_path / "crater"
    assert {file.suffix for file in path.iterdir()} == {".json", ".safetensors"}
    monkeypatch.setenv("BOMB", str(crater))
    file = shard(path)
    for write in (pickle.dumps, None):
        if write:
            file.write_bytes(write(Bomb()))
        else:
            torch.save(Bomb(), file)
        rewrite(path, [entry_of(file, file.name)])
        assert reading.verify(path) is None
        with pytest.raises(HiresError, match="damaged"):
            reading.Checkpoint(path)
        assert not crater.exists()


# ---------------------------------------------------------------------------------------------- what was cut short, and other runs


def test_what_a_killed_save_or_deletion_left_is_removed_and_told(two):
    whole = two / reading.folder_name(64)
    left = [hidden(two / reading.folder_name(96), "writing"), hidden(two / reading.folder_name(16), "deleting"), hidden(whole, "replaced")]
    for path in left:
        shutil.copytree(whole, path)
    (two / ".mine").mkdir()
    told = []
    assert reading.from_first_rank(two, told.append).images == 64
    assert sorted(p.name for p in two.iterdir()) == [".mine", reading.folder_name(32), reading.folder_name(64)]
    assert len(told) == 3 and all(any(str(path) in line for line in told) for path in left)


def test_what_was_moved_away_for_a_save_that_never_came_is_put_back(two):
    whole = two / reading.folder_name(64)
    whole.rename(hidden(whole, "replaced"))
    told = []
    assert reading.from_first_rank(two, told.append).images == 64
    assert reading.verify(whole) is None and len(told) == 1 and "restored" in told[0]


def test_the_same_moment_damaged_twice_is_set_aside_twice(two):
    for _ in range(2):
        flip(two / reading.folder_name(64))
        assert reading.from_first_rank(two, lambda text: None).images == 32
        shutil.copytree(two / reading.folder_name(32), two / reading.folder_name(64))
    assert {p.name for p in two.glob("damaged-*")} == {f"damaged-{reading.folder_name(64)}", f"damaged-{reading.folder_name(64)}-1"}


def test_a_manifest_of_another_format_is_refused_by_number(two):
    path = two / reading.folder_name(64)
    (path / reading.MANIFEST).write_text(reading.manifest_text(reading.read_manifest(path) | {"format": 2}))
    assert reading.verify(path) == f"format 2, wanted {reading.FORMAT}"
    with pytest.raises(HiresError, match="format 2, wanted"):
        reading.Checkpoint(path)


def test_no_clock_is_asked_which_checkpoint_is_the_newest(two):
    for images, when in ((32, 2e9), (64, 1e9)):  # the clock went backwards
        path = two / reading.folder_name(images)
        (path / reading.MANIFEST).write_text(reading.manifest_text(reading.read_manifest(path) | {"time": when}))
        os.utime(path, (when, when))
    assert reading.newest_valid(two, pytest.fail) == two / reading.folder_name(64)
    writing.retain(two, Policy(1, levels=False))
    assert reading.complete(two) == [two / reading.folder_name(64)]


def test_another_run_is_read_and_left_as_it_is(two, tmp_path):
    run = tmp_path / "other"
    (run / "checkpoints").mkdir(parents=True)
    for path in reading.complete(two):
        path.rename(run / "checkpoints" / path.name)
    flip(run / "checkpoints" / reading.folder_name(64))
    before = sorted(run.rglob("*"))
    told = []
    assert reading.of_another_run(str(run), True, told.append).images == 32 and len(told) == 1
    assert reading.of_another_run(str(run / "checkpoints" / reading.folder_name(32)), True).images == 32
    assert sorted(run.rglob("*")) == before
    damaged = run / "checkpoints" / reading.folder_name(64)
    for place, words in ((damaged, "hash"), (tmp_path / "none", "no such"), (two, "no complete checkpoint")):
        with pytest.raises(HiresError, match=f"train.start_from={place}: .*{words}"):
            reading.of_another_run(str(place), True, lambda text: None)


@pytest.mark.parametrize("moments", [True, False])
def test_another_runs_moments_are_taken_only_where_they_are_wanted(moments, make_player, trained, tmp_path):
    first, second = make_player(), make_player()
    trained(first, 2)
    writing.save(tmp_path / "checkpoints", {"energy": first}, 64, INFO)
    reading.of_another_run(str(tmp_path), moments).load_optimizer(second, moments=True)
    for field in FIELDS:
        for name, tensor in second.gather(field).items():
            wanted = first.gather(field)[name] if moments or field in ("weight", "ema") else torch.zeros_like(tensor)
            assert torch.equal(tensor, wanted), (field, name)
    assert second.steps() == ({"4x4": 2, "8x8": 2} if moments else {"4x4": 0, "8x8": 0})
    first.destroy(), second.destroy()
