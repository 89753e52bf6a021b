"""One data set made by several processes, as an array job's tasks on several nodes do: the bytes are those of one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
import json
import multiprocessing
import os
from pathlib import Path
import re
import signal
import time

import pytest

from pipelines import DataError, PrepareConfig, Shards, SplitConfig, prepare

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def config(photos, tmp_path) -> PrepareConfig:
    """30 pictures, 4 a shard, in three parts."""
    return PrepareConfig(
        path=str(photos), out=str(tmp_path / "set"), resolution=128, images_per_shard=4, split=SplitConfig(holdout=5), workers=1
    )


def report_of(config: PrepareConfig, queue) -> None:
    queue.put(prepare(config))


def start(config: PrepareConfig, part: str, queue=None) -> multiprocessing.Process:
    """A process that prepares a part, and puts its report into the queue."""
    own = replace(config, part=part)
    process = FORK.Process(target=report_of, args=(own, queue)) if queue else FORK.Process(target=prepare, args=(own,))
    process.start()
    return process


def test_parts_that_start_together_make_the_same_bytes(config, hashes, tmp_path):
    """Into a folder that none of them finds; the last one to end completes."""
    queue = FORK.Queue()
    processes = [start(config, f"{number}/3", queue) for number in (1, 2, 3)]
    reports = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    whole = replace(config, out=str(tmp_path / "whole"))
    prepare(whole)
    assert hashes(Path(config.out)) == hashes(Path(whole.out))
    others = [report["status"] for report in reports if report["status"] != "prepared"]
    assert len(others) == 2 and all(re.match(r"already complete|part ./3 is done", status) for status in others)
    assert prepare(replace(config, part="2/3"))["status"] == "already complete"


def test_a_part_makes_its_own_shards_alone_and_the_last_one_completes(config):
    """In any order; until then the set is not finished."""
    calls, out = [], Path(config.out)
    said = prepare(replace(config, part="2/2"), lambda done, total: calls.append((done, total)))["status"]
    assert said == "part 2/2 is done, 5 shards of others are not"
    assert {file.stem for file in out.glob("128/*")} == {"shard-00001", "shard-00003", "shard-00005", "holdout-00000"}
    assert calls[-1] == (calls[-1][1],) * 2 and calls[-1][1] < 30
    with pytest.raises(DataError, match="not finished"):
        Shards.open(out)
    assert prepare(replace(config, part="1/2"))["status"] == "prepared"
    assert sum(Shards.open(out).shard_sizes("train")) == 25


def test_a_part_that_was_killed_is_made_again_while_the_others_go_on(tmp_path, config, fill, hashes):
    """SIGKILL in the middle: nobody completes what lacks shards; the same part again does, and keeps what was there."""
    large = fill(tmp_path / "large", 24, width=900, height=900)
    config = replace(config, path=str(large), resolution=512, images_per_shard=1)
    out, killed, other = Path(config.out), start(config, "1/2"), start(config, "2/2")
    ledgers = out / ".prepare"
    while not [file for file in ledgers.glob("shard-*.json") if int(file.stem[-5:]) % 2 == 0]:
        assert killed.is_alive(), "finished before it could be killed"
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    other.join()
    assert other.exitcode == 0 and not (out / "manifest.json").exists()
    finished = {file: file.stat().st_mtime_ns for file in out.glob("512/shard-*.tar") if (ledgers / f"{file.stem}.json").exists()}
    assert 10 <= len(finished) < 19
    assert prepare(replace(config, part="1/2"))["status"] == "prepared"
    assert all(file.stat().st_mtime_ns == then for file, then in finished.items())
    undisturbed = replace(config, out=str(tmp_path / "undisturbed"))
    prepare(undisturbed)
    assert hashes(out) == hashes(Path(undisturbed.out))


def test_what_parts_left_is_completed_by_the_command_without_part(config, hashes, tmp_path):
    """Where a task never comes back."""
    prepare(replace(config, part="3/3"))
    prepare(config)
    whole = replace(config, out=str(tmp_path / "whole"))
    prepare(whole)
    assert hashes(Path(config.out)) == hashes(Path(whole.out))
    assert not list(Path(config.out).glob(".prepare/part-*"))


@contextmanager
def at_work(config: PrepareConfig) -> Iterator[None]:
    """A process that has listed the source, and waits."""
    held, release = FORK.Event(), FORK.Event()

    def slow(done: int, total: int | None) -> None:
        held.set()
        release.wait(60)

    process = FORK.Process(target=prepare, args=(config, slow))
    process.start()
    try:
        assert held.wait(60)
        yield
    finally:
        release.set()
        process.join()


def test_parts_work_at_the_same_time(config):
    """One is done while another is under way."""
    with at_work(replace(config, part="1/2")):
        assert prepare(replace(config, part="2/2"))["status"] == "part 2/2 is done, 5 shards of others are not"
    assert prepare(config)["status"] == "already complete"


@pytest.mark.parametrize("part", ["1/2", "1/3", "2/3", ""], ids=["the same", "another number", "another of another number", "the whole"])
def test_two_do_not_write_the_same_shard(config, part, monkeypatch):
    """A part that is under way twice, in other parts, or as a whole."""
    with at_work(replace(config, part="1/2")):
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        with pytest.raises(DataError, match="another hires prepare is writing there"):
            prepare(replace(config, part=part))


def test_parts_of_different_data_sets_do_not_meet(config):
    """The settings of the part that came first hold for all."""
    prepare(replace(config, part="1/2"))
    with pytest.raises(DataError, match="unfinished data set with resolution=128; wanted resolution=64"):
        prepare(replace(config, part="2/2", resolution=64))
    settings = json.loads((Path(config.out) / ".prepare/settings.json").read_text())
    assert "part" not in settings


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3"])
def test_what_is_no_part_is_refused(config, part):
    with pytest.raises(DataError, match=f"part={part}: wanted a part and the number of parts"):
        prepare(replace(config, part=part))
    assert not Path(config.out).exists()
