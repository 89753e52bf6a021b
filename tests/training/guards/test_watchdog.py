"""A rank that hangs ends the run on all others, which name it and leave their Python stacks; real processes, really stopped."""

import os
from pathlib import Path
import signal
import socket

import pytest

from hires.errors import HiresError
from hires.training.guards.watchdog import Beat, judge, parse_limit
from tests.processes.ranks import Ranks

SCRIPT = Path(__file__).parents[2] / "processes" / "hanging.py"
LIMIT = 4


def named(world: Ranks, rank: int) -> str:
    return f"hires train: error: rank {rank} (host {socket.gethostname()}, pid {world.processes[rank].pid}) stopped answering "


@pytest.mark.slow
def test_when_rank_0_is_stopped_the_others_name_it_leave_their_stacks_and_end(forks, clean_env, tmp_path):
    with Ranks(forks.start, 3, [SCRIPT, LIMIT, 0, "nothing"], clean_env, tmp_path) as world:
        world.read_until("five")
        world.processes[0].send_signal(signal.SIGSTOP)
        assert world.finish(1, 2) == [1, 1]
        for rank in (1, 2):
            assert world.last(rank).startswith(named(world, 0))
            text = world.errors[rank].read_text()
            assert "most recent call first" in text and "all_reduce" in text and "hanging.py" in text  # where the main thread waits
        assert world.processes[0].poll() is None


@pytest.mark.slow
def test_a_rank_whose_other_threads_live_is_named_too_and_one_that_is_slow_is_not(forks, clean_env, tmp_path):
    with Ranks(forks.start, 3, [SCRIPT, LIMIT, 1, "lock"], clean_env, tmp_path) as world:
        assert world.finish(0, 1, 2) == [1, 1, 1]
        for rank in range(3):
            assert world.last(rank).startswith(named(world, 1) + "at 5 images during reading images")
        stack = world.errors[1].read_text()
        assert "in hang" in stack and "all_reduce" not in stack


@pytest.mark.slow
def test_one_that_lets_no_other_thread_run_is_named_and_still_leaves_its_stack(forks, clean_env, tmp_path):
    with Ranks(forks.start, 2, [SCRIPT, LIMIT, 1, "gil"], clean_env, tmp_path) as world:
        assert world.finish(0, 1) == [1, 1]
        assert "rank 1" in world.last(0) and "stopped answering" in world.last(0)
        assert "in hang" in world.errors[1].read_text()


@pytest.mark.slow
def test_a_stopped_rank_of_a_real_run(forks, clean_env, tiny, tmp_path):
    long = ["schedule.levels.4.stable=1M", "schedule.levels.4.batch=12", "schedule.levels.8.batch=12", "train.checkpoint_every=1M"]
    command = ["-m", "hires", "train", *tiny, *long, f"run={tmp_path / 'run'}", f"train.hang_timeout={2 * LIMIT}s"]
    with Ranks(forks.start, 3, command, clean_env, tmp_path) as world:
        world.read_until("kimg")
        world.processes[2].send_signal(signal.SIGSTOP)
        assert world.finish(0, 1) == [1, 1]
        for rank in (0, 1):
            assert world.last(rank).startswith(named(world, 2)) and "train.hang_timeout=8s" in world.last(rank)
            assert "game.py" in world.errors[rank].read_text()  # the stack goes down to the round


@pytest.mark.slow
def test_a_single_process_ends_too(forks, clean_env, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with Ranks(forks.start, 1, [SCRIPT, 2, 0, "file", tmp_path / "pipe"], clean_env, tmp_path) as world:
        assert world.finish(0) == [1]
        assert "rank 0" in world.last(0) and "during reading images" in world.last(0) and "in hang" in world.errors[0].read_text()


# ---------------------------------------------------------------------------------------------- who is to blame

NAMES = ["rank 0 (a)", "rank 1 (b)", "rank 2 (c)"]


def beat(rank: int, marks: int = 7, overdue: bool = True, waits: bool = True) -> Beat:
    return Beat(rank, marks, 48, "a step", overdue, "x.py:1 f", waits)


def blamed(*beats: Beat, silent: dict[int, float] | None = None) -> str | None:
    return judge(list(beats), {0: 0.1, 1: 0.1, 2: 0.1} | (silent or {}), NAMES, 10)


def test_who_is_silent_is_named_first():
    assert blamed(beat(0), beat(1), beat(2), silent={1: 9}).startswith("rank 1 (b) stopped answering at 48 images during a step")


def test_who_is_behind_is_named_unless_it_is_still_within_its_time():
    assert blamed(beat(0), beat(1), beat(2, marks=6)).startswith("rank 2 (c) stopped")
    assert blamed(beat(0), beat(1), beat(2, marks=6, overdue=False)) is None  # it saves, say, and the others wait
    assert blamed(beat(0), beat(1, overdue=False), beat(2)) is None  # equally far: what the last one does is not known yet


def test_of_equals_who_is_in_no_collective_is_named():
    assert blamed(beat(0), beat(1, waits=False), beat(2)).startswith("rank 1 (b) stopped")
    text = blamed(beat(0), beat(1), beat(2))
    assert "none is behind" in text and all(name in text for name in NAMES)


@pytest.mark.parametrize("text,seconds", [("10m", 600), ("off", 0), ("0", 0), ("1h30m", 5400)])
def test_the_limit(text, seconds):
    assert parse_limit(text) == seconds


@pytest.mark.parametrize("text", ["10", "ten", "-5m", "", "0m"])
def test_a_limit_that_is_none(text):
    with pytest.raises(HiresError, match=f"train.hang_timeout={text}: wanted .* or off"):
        parse_limit(text)
