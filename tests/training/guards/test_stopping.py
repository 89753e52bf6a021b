"""Asked to stop by a signal or by the end of its time, a run saves once and ends with 85, on all ranks alike, before its time is over."""

from collections.abc import Callable
import itertools
import os
import signal
import sys
import time

import pytest

from hires import config as configuration
from hires.checkpoints import reading
from hires.errors import HiresError
from hires.training.guards import stopping
from hires.training.guards.stopping import StopRequest, parse_seconds
from hires.training.trainer import SAVED, Trainer
from tests.processes.ranks import Ranks


@pytest.mark.parametrize("text,seconds", [("90s", 90), ("45m", 2700), ("3h50m", 13800), ("1d2h", 93600), ("1h0m5s", 3605)])
def test_lengths_of_time(text, seconds):
    assert parse_seconds(text, "train.stop_after") == seconds


@pytest.mark.parametrize("text", ["90", "3h 50m", "50m3h", "1.5h", "-3h", "0s", "soon", "h"])
def test_what_is_no_length_of_time(text):
    with pytest.raises(HiresError, match=r"train.stop_after=.*: wanted a length of time such as 90s"):
        StopRequest(stop_after=text)


@pytest.mark.parametrize("name", ["USR2", "SIGUSR2", "usr2"])
def test_the_configured_signal_asks_and_others_do_what_they_did(name):
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)
    with StopRequest(name) as stop:
        assert not stop.asked() and signal.getsignal(signal.SIGUSR1) == before[0]
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.asked() and stop.received == "SIGUSR2"
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)) == before


def test_a_second_ctrl_c_means_now():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_lost_terminal_stops_but_not_under_nohup():
    """SIGHUP is received as TERM is; where it is ignored from the start it stays so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.asked() and stop.received == "SIGHUP"
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["KILL", "STOP", "USR3", "9", ""])
def test_a_signal_that_cannot_ask(name):
    with pytest.raises(HiresError, match=f"train.stop_signal={name}: wanted one of USR1"):
        StopRequest(name)


def test_time_is_counted_from_the_processs_start(forks, clean_env):
    code = "import time; time.sleep(1); from hires.training.guards.stopping import process_seconds as p; print(p(), time.monotonic())"
    began = time.monotonic()
    done = forks.run([sys.executable, "-c", code], env=clean_env, timeout=60)
    seconds, end = map(float, done.stdout.split())
    assert 1 <= seconds <= end - began + 0.02  # the kernel counts hundredths


@pytest.fixture
def clock(monkeypatch) -> Callable[[float], None]:
    """clock(seconds): what the process's clock and the monotonic one show."""

    def show(seconds: float) -> None:
        monkeypatch.setattr(stopping, "process_seconds", lambda: seconds)
        monkeypatch.setattr(stopping.time, "monotonic", lambda: seconds)

    show(0.0)
    return show


def stopped_at(clock, step: float, save: float) -> float:
    """When a run with a budget of 1000 s, steps of `step` and saves of `save` seconds asks to stop."""
    stop, now = StopRequest(stop_after="1000s"), 0.0
    stop.saved(save)
    while now < 1000:
        now += step
        clock(now)
        if stop.asked():
            return now
    return now


@pytest.mark.parametrize("step,save", [(1, 10), (1, 200), (20, 10), (50, 100), (0.1, 0)])
def test_what_is_left_of_the_budget_holds_the_agreement_a_step_late_and_a_save(clock, step, save):
    at = stopped_at(clock, step, save)
    assert at + step + save <= 1000  # one more step until the ranks agree
    assert at >= 1000 - 2 * save - 4 * step - 1  # and no more is given away than that


def test_before_a_growth_the_last_growth_must_fit_twice_and_ranks_but_the_first_have_no_clock(clock):
    stop, other = StopRequest(stop_after="1000s"), StopRequest(stop_after="1000s", decides=False)
    stop.saved(10)
    with stop.building():
        clock(100)
    clock(800)
    assert not stop.asked(fresh=True) and stop.asked(building=True)
    clock(2000)
    assert not other.asked()


def test_before_the_first_save_one_is_taken_to_last_a_minute_or_a_tenth(clock):
    stop, short = StopRequest(stop_after="1h"), StopRequest(stop_after="100s")
    clock(75)
    assert not short.asked(fresh=True)
    clock(3600 - 121)
    assert not stop.asked(fresh=True)
    clock(3600 - 119)
    assert stop.asked(fresh=True) and stop.received == "train.stop_after=1h"
    clock(81)
    assert short.asked(fresh=True)


# ---------------------------------------------------------------------------------------------- runs


def test_a_run_whose_time_ends_has_saved_before_and_says_why(world, tiny, tmp_path, capsys, monkeypatch):
    clock = itertools.count(step=60)  # a minute a step: the machine's speed decides nothing
    monkeypatch.setattr(stopping, "process_seconds", lambda: next(clock))
    overrides = ["schedule.levels.4.stable=10M", "train.checkpoint_every=320", "train.stop_after=2h", "monitor.status_every=1k"]
    assert Trainer(configuration.load("train", [*tiny, *overrides, f"run={tmp_path / 'run'}"]), world).train() == SAVED
    assert "stopped by train.stop_after=2h, saved; run the same command again" in capsys.readouterr().out
    newest = reading.newest_valid(tmp_path / "run" / "checkpoints", pytest.fail)
    assert reading.Checkpoint(newest).images > 320


@pytest.mark.slow
def test_when_one_rank_is_asked_all_save_at_one_step_and_end_with_85(forks, clean_env, tiny, tmp_path):
    long = ["schedule.levels.4.stable=10M", "train.checkpoint_every=10M", "train.stop_signal=USR2"]
    with Ranks(forks.start, 2, ["-m", "hires", "train", *tiny, *long, f"run={tmp_path / 'run'}"], clean_env, tmp_path) as world:
        world.read_until("kimg")
        world.processes[1].send_signal(signal.SIGUSR2)
        assert "stopped by SIGUSR2 (rank 1), saved; run the same command again" in world.read_until("stopped by")
        assert world.finish(0, 1) == [85, 85]
        (saved,) = reading.complete(tmp_path / "run" / "checkpoints")
        assert reading.verify(saved) is None and reading.Checkpoint(saved).manifest["world_size"] == 2
