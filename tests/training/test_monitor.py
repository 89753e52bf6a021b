"""What a run leaves for a person: the log of its progress lines."""

import json
import os
import signal
import subprocess
import sys

import pytest

from hires.checkpoints import reading
from hires.training.boards import Wandb
from hires.training.monitor import Monitor, read_records

STATUS = {"images": 16, "resolution": 4, "energy_gap": 1.0}


@pytest.mark.parametrize("damage", [b'{"images": 3', b"\xff\xfe\x00", b"12", b"[1, 2]", b"{}", b'{"images": "many"}', b"null", b""])
def test_a_damaged_line_is_left_out_and_the_run_goes_on(tmp_path, damage):
    """At the end or amid whole lines; what is whole up to the images stays as it was written, what lies beyond goes."""
    whole = [json.dumps(STATUS), json.dumps({"images": 16, "rollback": 1}), json.dumps(STATUS | {"images": 32})]
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"\n".join([whole[0].encode(), damage, *(line.encode() for line in whole[1:]), damage]))
    monitor = Monitor(tmp_path, None, True, "off", {}, {})
    monitor.resume(16)
    monitor.mark({"images": 17})
    monitor.close()
    assert file.read_text().splitlines() == [*whole[:2], '{"images": 17}']
    assert [record["images"] for _, record in read_records(file)] == [16, 16, 17]


def test_tensorboard_forgets_what_a_rollback_takes_back_and_rank_0_alone_writes(tmp_path):
    """Back from 48 to 16 images in one process: the points beyond are those of the second time, and each is there once."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first in (True, False):
        monitor = Monitor(tmp_path / str(first), None, first, "off", {}, {}, tensorboard=True)
        (tmp_path / str(first)).mkdir()
        monitor.resume(0)
        for images in (16, 32, 48):
            monitor._tell(lambda board, n=images: board.log({"images": n, "x": float(n)}, n))
        monitor.resume(16)
        for images in (16, 32, 48):  # 16 has its point already
            monitor._tell(lambda board, n=images: board.log({"images": n, "x": 1.0}, n))
        monitor.close()
    points = reading.EventAccumulator(str(tmp_path / "True" / "tensorboard")).Reload().Scalars("x")
    assert [(point.step, point.value) for point in points] == [(16, 16.0), (32, 1.0), (48, 1.0)]
    assert not (tmp_path / "False" / "tensorboard").exists()


def test_a_board_that_fails_is_left_out_and_the_run_goes_on(tmp_path, capsys, monkeypatch):
    """Whatever it fails at: here a real wandb, online without a key, then with an odd error in the middle."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monitor = Monitor(tmp_path / "run", None, True, "online", {}, {})
    (tmp_path / "run").mkdir()
    monitor.resume(0)
    monitor.measures(16, 4, {"swd": 1.0}, {"swd": 1.0})
    monitor.close()
    said = capsys.readouterr().out.replace("\n", " ")
    assert "monitor.wandb: " in said and said.count("training continues without it") == 1
    assert [record["images"] for _, record in read_records(tmp_path / "run" / "metrics.jsonl")] == [16]


def test_runs_on_wandb_are_told_apart_by_more_than_their_folders_name(tmp_path, monkeypatch):
    """Offline, with names that no id may have; the same run keeps its id, moved too, and one from before ids were kept its name."""
    made, sent = [], []

    class Client:
        Image = None

        @staticmethod
        def init(**settings):
            made.append(settings)
            return Client

        @staticmethod
        def define_metric(*_, **__):
            pass

        @staticmethod
        def log(values):  # no step: the client drops one that is lower than the last
            sent.append(values["images"])

    monkeypatch.setitem(sys.modules, "wandb", Client)
    (tmp_path / "c" / "old" / "wandb").mkdir(parents=True)
    for place in ("a/s:0", "b/s:0", "a/s:0", "c/old"):
        Wandb(tmp_path / place, "offline", {})
    (tmp_path / "a" / "s:0").rename(tmp_path / "moved#.x")
    board = Wandb(tmp_path / "moved#.x", "offline", {})
    for images in (32, 16):  # as after a rollback
        board.log({"x": 1.0}, images)
    assert sent == [32, 16]
    first, second, again, old, moved = (settings["id"] for settings in made)
    assert first == again == moved != second and old == "old"
    assert first.isalnum() and made[0]["name"] == "s:0"


@pytest.mark.slow
@pytest.mark.parametrize("end", ["the reader of its log goes away", "its terminal is closed"])
def test_a_run_outlives_who_watches_it(tiny, forks, clean_env, tmp_path, end):
    """`hires train … | head -3` trains to its end; a run whose terminal is closed saves and ends as after SIGTERM."""
    long = ["schedule.levels.4.stable=10M", "train.checkpoint_every=10M"] if "terminal" in end else []
    command = [sys.executable, "-u", "-m", "hires", "train", *tiny, *long, f"run={tmp_path / 'run'}"]
    if not long:
        run = forks.start(command, env=clean_env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        run.stdout.readline()
        run.stdout.close()
        assert run.wait(300) == 0, run.stderr.read()
        assert reading.complete(tmp_path / "run" / "checkpoints")
        return
    ours, theirs = os.openpty()
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
    run = subprocess.Popen(command, env=clean_env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    signal.signal(signal.SIGHUP, before)
    os.close(theirs)
    while b"kimg" not in os.read(ours, 4096):
        pass
    os.close(ours)
    run.send_signal(signal.SIGHUP)  # as the kernel and the shell do
    assert run.wait(300) == 85
    assert reading.complete(tmp_path / "run" / "checkpoints")
