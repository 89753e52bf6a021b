"""One folder, one trainer: the living are respected wherever they run, the dead are taken over, and of many starters one wins."""

from contextlib import ExitStack
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from hires.errors import HiresError
from hires.training.guards import lock as locking
from hires.training.guards.lock import RunLock

PROCESSES = Path(__file__).parents[2] / "processes"
HOLD = "import sys, time; from pathlib import Path; from hires.training.guards.lock import RunLock\n"
HOLD += "with RunLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


@pytest.fixture
def elsewhere(monkeypatch):
    """elsewhere(**facts) -> a lock as made on another machine, whose facts may be set."""

    def make(folder: Path, **facts) -> RunLock:
        with monkeypatch.context() as there:
            there.setattr(locking, "place", lambda: "another boot pid:[1]")
            lock = RunLock(folder, say=pytest.fail, beat=0.05)
        lock._me |= {"host": "node07", "pid": 4321} | facts
        return lock

    return make


def locks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_second_run_is_refused_naming_the_first_and_let_in_after_it(tmp_path):
    with RunLock(tmp_path, pytest.fail):
        with (
            pytest.raises(HiresError, match=rf"already being trained by process {os.getpid()} on .* since 20\d\d-") as refused,
            RunLock(tmp_path),
        ):
            pass
        assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)
        assert locks(tmp_path) == [".running-1"]
    assert locks(tmp_path) == []
    with RunLock(tmp_path, pytest.fail) as lock:
        lock.check()


def test_a_folder_in_which_nothing_was_begun_is_not_left(tmp_path):
    with RunLock(tmp_path / "runs" / "a"):
        pass
    assert not (tmp_path / "runs" / "a").exists()
    with RunLock(tmp_path / "runs" / "a"):
        (tmp_path / "runs" / "a" / "config.yaml").touch()
    assert locks(tmp_path / "runs" / "a") == ["config.yaml"]


@pytest.mark.slow
def test_a_killed_process_is_taken_over_at_once_and_a_living_one_is_not(clean_env, tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], env=clean_env, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(HiresError, match=f"process {holder.pid} on "), RunLock(tmp_path, pytest.fail):
        pass
    holder.send_signal(signal.SIGKILL)
    while locking.process(holder.pid):  # not waited for yet: a zombie, which trains no more
        time.sleep(0.01)
    told = []
    with RunLock(tmp_path, told.append):
        assert len(told) == 1 and f"process {holder.pid}" in told[0] and "gone" in told[0]
        assert locks(tmp_path) == [".running-2"]
    assert holder.wait() == -signal.SIGKILL and locks(tmp_path) == []


def test_another_process_with_the_same_id_is_not_taken_for_the_owner(tmp_path):
    dead = RunLock(tmp_path)._me | {"started": "1", "beats": "0"}  # our own id, of a process that started just after the boot
    (tmp_path / ".running-5").write_text(json.dumps(dead))
    told = []
    with RunLock(tmp_path, told.append):
        assert locks(tmp_path) == [".running-6"] and "gone" in told[0]


def test_a_lock_from_elsewhere_is_watched_for_signs_of_life(tmp_path, elsewhere):
    told = []
    first = elsewhere(tmp_path, job="77").__enter__()
    with pytest.raises(HiresError, match=r"process 4321 on node07 \(Slurm job 77\)"), RunLock(tmp_path, told.append, watch=5.0):
        pass
    assert len(told) == 1 and "watching for 5 s" in told[0]
    first._stop.set()  # as if it were suspended, or its machine gone
    first._beats.join()
    first.check()
    began = time.monotonic()
    with RunLock(tmp_path, told.append, watch=0.5) as second:
        assert time.monotonic() - began >= 0.5 and "no sign of life" in told[-1]
        with pytest.raises(HiresError, match="taken this folder over"):
            first.check()  # before it commits a checkpoint
        first.__exit__()  # and its end does not free the other's lock
        assert locks(tmp_path) == [".running-2"]
        second.check()


def test_a_clock_set_back_changes_nothing(tmp_path, elsewhere):
    with elsewhere(tmp_path):
        os.utime(tmp_path / ".running-1", (1, 1))
        with pytest.raises(HiresError, match="node07"), RunLock(tmp_path, lambda _: None, watch=5.0):
            pass


def test_a_requeued_job_goes_on_at_once_but_not_beside_itself(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    told = []
    with elsewhere(tmp_path, job="77", restart=0) as first:
        with pytest.raises(HiresError, match="Slurm job 77"), RunLock(tmp_path, told.append, watch=5.0):  # a second step of the same job
            pass
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        with RunLock(tmp_path, told.append, watch=60.0) as second:
            assert "requeued" in told[-1]
            second.check()
        first._stop.set()


@pytest.mark.parametrize("text", ["", "{half"])
def test_a_lock_that_says_nothing_is_watched_too(text, tmp_path):
    (tmp_path / ".running-1").write_text(text)
    told = []
    with RunLock(tmp_path, told.append, watch=0.3):
        assert locks(tmp_path) == [".running-2"] and "no sign of life" in told[-1]


def test_a_starter_that_was_slow_does_not_take_a_lock_made_meanwhile(tmp_path, monkeypatch):
    """While it judged the dead one's lock, another took that over, ran and ended, and a third began: numbers start again, owners do not."""
    (tmp_path / ".running-1").write_text(json.dumps(RunLock(tmp_path)._me | {"started": "1", "beats": "0"}))
    third, real = RunLock(tmp_path, pytest.fail), RunLock._why_dead

    def slow(self, file, text):
        if json.loads(text)["started"] == "1":
            file.unlink()
            third.__enter__()
            return "that process is gone"
        return real(self, file, text)

    monkeypatch.setattr(RunLock, "_why_dead", slow)
    with pytest.raises(HiresError, match="already being trained"), RunLock(tmp_path, lambda _: None):
        pass
    third.check()
    assert locks(tmp_path) == [".running-1"]
    third.__exit__()


@pytest.mark.slow
def test_of_many_starters_at_once_one_wins(forks, clean_env, tmp_path, pytestconfig):
    count = 20 if pytestconfig.option.all else 8
    command = [sys.executable, PROCESSES / "racing_starters.py", tmp_path, "6", str(count)]
    env = clean_env | {"PYTHONPATH": str(PROCESSES.parent.parent)}
    done = forks.run(command, env=env, timeout=200)
    assert done.returncode == 0, done.stderr
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rounds) == count
    assert all(one["had"] >= 1 and one["two at once"] == one["died"] == 0 for one in rounds), rounds
    assert any(one["refused"] for one in rounds)  # they did meet
    assert not [path for path in tmp_path.glob("*/.running-*")]


def test_a_folder_that_cannot_be_written_is_told_in_words(tmp_path):
    with ExitStack() as mounted:
        folder = tmp_path / "disk"
        folder.mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"this user cannot mount a file system: {made.stderr.strip()}")
        mounted.callback(subprocess.run, ["umount", folder], check=True)
        for run in (folder, folder / "run"):
            with pytest.raises(HiresError, match=f"run={run}: cannot be written to: Read-only file system"), RunLock(run):
                pass


def test_a_file_in_the_folders_place_is_told_in_words(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(HiresError, match="cannot be written to: File exists"), RunLock(tmp_path / "run"):
        pass
