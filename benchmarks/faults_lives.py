"""Processes that live, are hurt and end, for benchmarks/faults.py.

They are forked from one that has imported everything, since importing would take most of the time.
"""

from collections.abc import Callable
import contextlib
import functools
import gc
import importlib
import json
import mmap
import os
from pathlib import Path
import random
import signal
import socket
import sys
import time
import traceback
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch

from hires import cli
from hires import config as configuration
from hires.training.settings import run_config, to_dict

IMPORTED = ("deepspeed.runtime.zero.muon.muon_optimizer", "torch._dynamo", "sklearn.datasets", "matplotlib.pyplot")  # what is imported late
LONGEST = 900  # seconds that a life may take, on a machine with much else to do
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.utime", "shutil.rmtree", "shutil.copyfile")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
JUMPS = (-10 * 365 * 86400, -86400, -3600, -5, 5, 3600, 86400, 10 * 365 * 86400)  # seconds that a clock is set by


def import_everything() -> None:
    """Before the first fork; from now on the same settings are read but once, in the process that forks."""
    for name in (*IMPORTED, *(f"hires.verbs.{verb}" for verb in ("train", "evaluate", "export", "prepare"))):
        importlib.import_module(name)
    load = configuration.load
    known = functools.cache(lambda verb, settings: load(verb, list(settings)))
    configuration.load = lambda verb, settings: known(verb, tuple(settings))
    from_plain, read = configuration.from_plain, {}

    def read_once(schema: type, plain: dict) -> Any:
        key = schema, json.dumps(plain, sort_keys=True)
        if key not in read:
            read[key] = from_plain(schema, plain)
        return read[key]

    configuration.from_plain = read_once
    torch.set_num_threads(1)
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would be missing in what is forked from here"
    gc.freeze()


class Life:
    """A command's processes, one a rank, in `folder`, with their output in `log`."""

    def __init__(self, command: list[str], ranks: int, folder: Path, log: Path, first: Callable[[int], None] = lambda rank: None):
        """Begins; `first` is called in each process, with its rank, before the command."""
        log.write_text("", encoding="utf-8")
        self.log, self.codes = log, dict.fromkeys(range(ranks))
        self.stopped: set[int] = set()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = configuration.load(command[0], command[1:])
        if command[0] == "train":
            run_config(to_dict(config))  # as a checkpoint has it
        world = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if ranks > 1 else {}
        self.pids = [_fork(command, rank, world, folder, log, first) for rank in range(ranks)]

    def said(self) -> str:
        """The output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def lives(self) -> bool:
        """Whether every process still runs."""
        self._reap()
        return not any(code is not None for code in self.codes.values())

    def lives_for(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Waits so long, or until something is; whether every process still runs."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.lives() and not until():
            time.sleep(0.002)
        return self.lives()

    def send(self, number: int, rank: int) -> None:
        """A signal to a rank that has not ended."""
        if self.codes[rank] is None:
            os.kill(self.pids[rank], number)
            self.stopped = self.stopped | {rank} if number == signal.SIGSTOP else self.stopped - {rank}

    def end(self, patience: float) -> list[int]:
        """Exit codes; as a launcher does, ends the others `patience` seconds after one has failed. What they have started has ended too."""
        until = time.monotonic() + LONGEST
        while None in self.codes.values():
            self._reap()
            if any(self.codes.values()):
                until = min(until, time.monotonic() + patience)
            if time.monotonic() > until:
                for rank in self.codes:
                    self.send(signal.SIGKILL, rank)
                until = time.monotonic() + LONGEST
            time.sleep(0.002)
        for pid in self.pids:
            until = time.monotonic() + 60
            while _has_group(pid) and time.monotonic() < until:
                time.sleep(0.01)
            assert not _has_group(pid), f"a minute after {pid} what it has started still runs"
        return list(self.codes.values())

    def _reap(self) -> None:
        for rank, pid in enumerate(self.pids):
            if self.codes[rank] is None:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.codes[rank] = os.waitstatus_to_exitcode(status)


def _fork(command: list[str], rank: int, world: dict[str, str], folder: Path, log: Path, first: Callable[[int], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(folder)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ |= world | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if world else {}) | {"COLUMNS": "200"}
        torch.set_num_threads(1)
        first(rank)
        code = cli.main(command)
    except BaseException:  # a forked process must end here, whatever happened
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _has_group(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, 0)
        return True
    return False


class Operations:
    """Counts what forked processes are about to do to files, and ends one before its operation of a given number."""

    def __init__(self, ranks: int, places: tuple[str, ...]):
        """`places`: parts of files' names; those that hold one are counted by themselves."""
        self._places = places
        self._shared = mmap.mmap(-1, 8 * ranks * len(places))
        self.counts = memoryview(self._shared).cast("q", [ranks, len(places)])

    def watch(self, rank: int, fatal: tuple[int, int] = (0, 0)) -> None:
        """In a forked process; `fatal`: which place, and the number, from 1, of an operation there."""

        def hook(event: str, args: tuple) -> None:
            opens = event == "open" and isinstance(args[2], int) and args[2] & WRITES
            if (opens or event in CHANGES) and isinstance(args[0], str | bytes | os.PathLike):
                for i, place in enumerate(self._places):
                    if place in os.fsdecode(args[0]):
                        self.counts[rank, i] += 1
                        if (i, self.counts[rank, i]) == fatal:
                            os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)


def jump_clock(jump: float, after: float) -> None:
    """In a forked process: time.time() is another `after` seconds from now."""
    real, began = time.time, time.monotonic()
    time.time = lambda: real() + (jump if time.monotonic() - began > after else 0)


def jump_file_times(folder: Path, dice: random.Random) -> None:
    """Every file as if written at another time, the newest perhaps first."""
    for path in sorted(folder.rglob("*")):
        moment = time.time() + dice.choice(JUMPS) + dice.uniform(-60, 60)
        os.utime(path, (moment, moment))


class Disk:
    """A small file system that can be filled and emptied."""

    SIZE = 16 << 20

    def __init__(self, folder: Path):
        self.folder, self._filler = folder, folder / "filler"
        folder.mkdir()
        status = os.spawnlp(os.P_WAIT, "mount", "mount", "-t", "tmpfs", "-o", f"size={self.SIZE}", "tmpfs", str(folder))
        self.there = not status

    def close(self) -> None:
        """Unmounts it."""
        if self.there:
            os.spawnlp(os.P_WAIT, "umount", "umount", str(self.folder))

    def fill(self, left: int) -> None:
        """All but `left` bytes."""
        with contextlib.suppress(OSError), open(self._filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        os.truncate(self._filler, max(0, self._filler.stat().st_size - left))

    def empty(self) -> None:
        """Takes away what `fill` wrote."""
        self._filler.unlink(missing_ok=True)
