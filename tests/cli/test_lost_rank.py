"""A rank that is killed: the others end in a line, not in a page of traceback."""

from datetime import timedelta
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch.distributed as dist

from hires.errors import HiresError
from hires.verbs import _errors_in_a_line


@pytest.mark.slow
def test_the_rank_that_is_left_says_so_in_one_line(tiny, forks, clean_env, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "hires", "train", *tiny, f"run={tmp_path / 'run'}", "schedule.levels.4.stable=100k"]
    command += ["train.checkpoint_every=10k", "monitor.snapshot_every=1M"]
    ranks = []
    for rank in range(2):
        env = clean_env | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks.append(forks.start(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    try:
        metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 200
        while not metrics.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        ranks[1].send_signal(signal.SIGKILL)
        _, said = ranks[0].communicate(timeout=120)
        assert ranks[0].returncode == 1
        assert said.strip().splitlines()[-1].startswith("hires train: error: rank 0 lost another rank") and "Traceback" not in said
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def test_so_does_one_whose_first_rank_went_while_they_were_starting(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    first = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store = dist.TCPStore("127.0.0.1", first.port, is_master=False, timeout=timedelta(seconds=5))
    del first
    with pytest.raises(HiresError, match=r"^rank 1 lost another rank"), _errors_in_a_line():
        store.get("anything")


def test_and_one_that_finds_nobody_to_start_with(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        with pytest.raises(HiresError, match=r"^rank 1 lost another rank"), _errors_in_a_line():
            dist.TCPStore("127.0.0.1", taken.getsockname()[1], is_master=False, timeout=timedelta(seconds=1))


WAITS = """
import sys, torch.distributed as dist
from datetime import timedelta
store = dist.TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False)
dist.ProcessGroupGloo(store, 1, 2, timedelta(seconds=60))
"""


def test_and_one_whose_peer_goes_while_a_later_group_is_made(monkeypatch, forks, clean_env):
    """As DeepSpeed's own groups are, after that of the start."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    before = store.num_keys()
    peer = forks.start([sys.executable, "-c", WAITS, str(store.port)], env=clean_env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while store.num_keys() == before and time.monotonic() < deadline:  # until it has said where it listens
        time.sleep(0.05)
    peer.kill()
    peer.wait()
    with pytest.raises(HiresError, match=r"^rank 0 lost another rank"), _errors_in_a_line():
        dist.ProcessGroupGloo(store, 0, 2, timedelta(seconds=2))
