"""Saving beside training: what is written is what was there at the call, failures are told to all, and a kill at any step loses nothing."""

from itertools import accumulate
import json
import os
from pathlib import Path
import sys
import threading

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
from safetensors.torch import load
import torch
from torch import nn

from hires.checkpoints import reading, writing
from hires.checkpoints.retention import Policy
from hires.errors import HiresError
from tests.processes.cut import one_tensor

PROCESSES = Path(__file__).parents[1] / "processes"
INFO = {"resolution": 4, "config": {}}


def weight(path: Path) -> torch.Tensor:
    checkpoint = reading.Checkpoint(path)
    return checkpoint.read("energy", "levels.4x4.w", "weight", 0, checkpoint.numel("energy", "levels.4x4.w"))


# ---------------------------------------------------------------------------------------------- the file

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]
tensors = st.dictionaries(
    st.text("abc/@._é0123456789", min_size=1, max_size=12), st.tuples(st.sampled_from(DTYPES), st.integers(0, 40)), max_size=8
)


@settings(max_examples=60, deadline=None)
@given(tensors)
def test_the_layout_is_what_safetensors_reads(asked):
    content = {key: torch.randint(0, 2, (numel,)).to(dtype) for key, (dtype, numel) in asked.items()}
    header, places, size = writing.layout(content)
    data = bytearray(size)
    data[: len(header)] = header
    for key, (a, b) in places.items():
        data[a:b] = content[key].view(torch.uint8).numpy().tobytes() if b > a else b""
        assert a % content[key].element_size() == 0  # so that it can be copied into in place
    found = load(bytes(data))
    assert found.keys() == content.keys()
    assert all(found[key].dtype == content[key].dtype and torch.equal(found[key], content[key]) for key in content)


# ---------------------------------------------------------------------------------------------- beside training


@pytest.fixture
def held(monkeypatch) -> tuple[threading.Event, threading.Event]:
    """(begun, go on): writing a file sets the one and waits for the other."""
    begun, go_on, real = threading.Event(), threading.Event(), writing.write

    def write(path, data):
        begun.set()
        assert go_on.wait(60)
        return real(path, data)

    monkeypatch.setattr(writing, "write", write)
    return begun, go_on


def test_training_goes_on_while_the_state_of_the_call_is_written(world, tmp_path, held):
    begun, go_on = held
    tensor, lines = torch.arange(1000.0), []
    with writing.Saver(tmp_path, Policy(9), lines.append) as saver:
        path = saver.save(one_tensor(tensor), 16, INFO)
        assert begun.wait(60) and not path.exists() and not lines
        tensor += 1  # a training step
        saver.poll()  # does not wait
        go_on.set()
        saver.join()
        assert lines == [f"saved {path}"] and torch.equal(weight(path), torch.arange(1000.0))
        saver.save(one_tensor(tensor), 32, INFO)
    assert torch.equal(weight(tmp_path / reading.folder_name(32)), tensor)  # leaving the block waited for it


def test_a_save_waits_for_the_one_under_way(world, tmp_path, held):
    begun, go_on = held
    with writing.Saver(tmp_path, Policy(9), print) as saver:
        saver.save(one_tensor(torch.full((1000,), 1.0)), 16, INFO)
        assert begun.wait(60)
        second = threading.Thread(target=lambda: saver.save(one_tensor(torch.full((1000,), 2.0)), 32, INFO))
        second.start()
        second.join(0.3)
        assert second.is_alive() and not reading.complete(tmp_path)
        go_on.set()
        second.join(60)
    assert [weight(path).unique().tolist() for path in reading.complete(tmp_path)] == [[1.0], [2.0]]


def test_host_memory_is_used_again_and_grows_with_the_networks(world, tmp_path):
    with writing.Saver(tmp_path, Policy(9), print) as saver:
        places = []
        for images, numel in ((16, 1000), (32, 1000), (48, 5000), (64, 200)):
            saver.save(one_tensor(torch.full((numel,), float(images))), images, INFO)
            places.append(saver._host.data_ptr())
        assert places[0] == places[1] and places[2] == places[3]
    assert [weight(path).tolist() for path in reading.complete(tmp_path)] == [[16.0] * 1000, [32.0] * 1000, [48.0] * 5000, [64.0] * 200]


def test_buffers_of_the_networks_are_saved(world, tmp_path):
    players = one_tensor(torch.ones(3))
    players["energy"].network = nn.BatchNorm2d(2)
    players["energy"].network.num_batches_tracked += 5
    path = writing.save(tmp_path, players, 16, INFO)
    assert reading.Checkpoint(path).read("energy", "num_batches_tracked", "buffer", 0, 1).tolist() == [5]
    assert reading.Checkpoint(path).read("energy", "num_batches_tracked", "buffer", 0, 1).dtype == torch.int64


# ---------------------------------------------------------------------------------------------- failures


def full(path: Path) -> None:
    raise OSError(28, "No space left on device", str(path))


def test_a_failure_is_told_once_and_leaves_what_was_there(world, tmp_path, monkeypatch):
    writing.save(tmp_path, one_tensor(torch.ones(1000)), 16, INFO)
    with writing.Saver(tmp_path, Policy(1), pytest.fail) as saver:
        with monkeypatch.context() as broken:
            broken.setattr(writing, "fsync", full)
            saver.save(one_tensor(torch.zeros(1000)), 32, INFO)
            with pytest.raises(HiresError, match=rf"{reading.folder_name(32)}: checkpoint not written: No space left.*are untouched"):
                saver.join()
        saver.join()  # once
        assert [path.name for path in tmp_path.iterdir()] == [reading.folder_name(16)]  # and no half one that fills the disk
    with writing.Saver(tmp_path, Policy(1), lambda _: None) as saver:
        saver.save(one_tensor(torch.zeros(1000)), 32, INFO)
    assert weight(reading.newest_valid(tmp_path)).unique().tolist() == [0.0]


def test_a_failure_is_told_by_the_next_save(world, tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the folder's place")
    refused = pytest.raises(HiresError, match=r"Not a directory|File exists")
    with refused, writing.Saver(tmp_path / "checkpoints", Policy(1), print) as saver:
        saver.save(one_tensor(torch.ones(10)), 16, INFO)
        saver.save(one_tensor(torch.ones(10)), 32, INFO)


def test_a_run_that_lost_its_folder_commits_nothing(world, tmp_path):
    def check():
        raise HiresError("taken over")

    with pytest.raises(HiresError, match="taken over"), writing.Saver(tmp_path, Policy(1), pytest.fail, check) as saver:
        saver.save(one_tensor(torch.ones(10)), 16, INFO)
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_run_is_not_replaced_by_one_of_saving(world, tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the folder's place")
    with pytest.raises(ZeroDivisionError), writing.Saver(tmp_path / "checkpoints", Policy(1), print) as saver:
        saver.save(one_tensor(torch.ones(10)), 16, INFO)
        raise ZeroDivisionError


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_save_beside_collectives_and_all_hear_of_one_ranks_failure(size, ranks, tmp_path):
    ranks(size, PROCESSES / "saving_ranks.py", tmp_path)
    results = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(size)]
    assert all(result["sums"] and result["same"] for result in results)
    assert all(result["errors"] == results[0]["errors"] for result in results)
    (error,) = results[0]["errors"]
    assert f"(rank {size - 1})" in error and "File too large" in error
    assert [len(result["lines"]) for result in results] == [3] + [0] * (size - 1)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [reading.folder_name(i) for i in (16, 32, 64)]
    for images in (16, 32, 64):
        path = tmp_path / "checkpoints" / reading.folder_name(images)
        assert reading.verify(path) is None
        assert torch.equal(weight(path), torch.arange(size).repeat_interleave(50_000) + float(images))


@pytest.mark.slow
def test_killed_before_any_of_its_steps_a_save_leaves_a_whole_checkpoint(forks, clean_env, tmp_path):
    """Each step of the thread's work on the disk, deleting the older checkpoint included, is once the last one that is not done."""
    env = clean_env | {"PYTHONPATH": os.pathsep.join([str(PROCESSES), str(PROCESSES.parent.parent)])}
    command = [sys.executable, PROCESSES / "killed_saves.py", tmp_path]
    done = forks.run(command, env=env, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    old, new = reading.folder_name(32), reading.folder_name(64)
    for kill in kills:
        assert kill["value"] == [float(kill["images"])] and kill["images"] in (32, 64)
        assert {name for name in kill["left"] if not name.startswith("damaged")} <= {old, new}  # nothing hidden stays after a restart
        assert (new if kill["images"] == 64 else old) in kill["problems"] and not any(kill["problems"].values())
    images = [kill["images"] for kill in kills]
    assert images == sorted(images) and set(images) == {32, 64}  # once it is there it stays
    calls = [kill["call"] for kill in kills]
    committed = images.index(64)
    assert calls[committed - 1] == "os.rename" and calls[committed : committed + 2] == ["open", "fsync"]  # renamed, not fsynced: it counts
    assert calls[:committed].count("fsync") == 3 and calls[-1] == "none" and len(kills) >= 15, calls


# ---------------------------------------------------------------------------------------------- what stays


runs = st.lists(st.tuples(st.integers(1, 300), st.integers(0, 1)), min_size=1, max_size=30)  # (images more, whether it grows)


@given(runs, st.integers(1, 4), st.sampled_from([0, 100, 250]), st.booleans(), st.lists(st.integers(0, 3), min_size=30, max_size=30))
def test_what_stays_is_the_same_decided_each_time_or_at_the_end(steps, newest, every, levels, scores):
    images = list(accumulate(step for step, _ in steps))
    resolutions = [4 * 2**k for k in accumulate(grows for _, grows in steps)]
    measured = {one: {"swd": float(score)} for one, score in zip(images, scores, strict=False) if score}  # 0: not measured
    policy, there = Policy(newest, every, levels, "swd"), {}
    for one, resolution in zip(images, resolutions, strict=True):
        there[one] = resolution
        kept = policy.kept(there.items(), measured)
        there = {i: r for i, r in there.items() if i in kept}
    wanted = set(images[-newest:])
    if every:
        wanted |= {next(i for i in images if i >= m) for m in range(every, images[-1] + 1, every)}
    if levels:
        wanted |= {max(i for i, r in zip(images, resolutions, strict=True) if r == level) for level in resolutions}
    taken = [(r, -measured[i]["swd"], -i) for i, r in zip(images, resolutions, strict=True) if i in measured]
    wanted |= {-max(taken)[2]} if taken else set()  # of the highest level the lowest score, of equals the first
    assert set(there) == wanted
    assert all(policy.kept(there.items(), measured).values())  # each with its reason


def test_retention_on_disk_spares_what_it_cannot_read(world, tmp_path):
    for images, resolution in ((16, 4), (32, 4), (48, 8), (64, 8), (80, 8)):
        writing.save(tmp_path, one_tensor(torch.ones(3)), images, {"resolution": resolution, "config": {}})
    (tmp_path / reading.folder_name(16) / reading.MANIFEST).write_text("{")
    writing.retain(tmp_path, Policy(1))
    assert [path.name for path in sorted(tmp_path.iterdir())] == [reading.folder_name(i) for i in (16, 32, 80)]


def test_what_cannot_be_deleted_fails_nothing_and_stays_whole(world, tmp_path, monkeypatch):
    real = Path.rename

    def refuse(path, target):
        if "deleting" in str(target):
            raise PermissionError(13, "Permission denied")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with writing.Saver(tmp_path, Policy(1, levels=False), lambda _: None) as saver:
        for images in (16, 32):
            saver.save(one_tensor(torch.ones(3)), images, INFO)
    assert [reading.verify(path) for path in reading.complete(tmp_path)] == [None, None]
