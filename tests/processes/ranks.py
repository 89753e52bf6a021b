"""Several processes that meet, each watched on its own; used by test_watchdog and test_preemption."""

from collections.abc import Callable
from pathlib import Path
import socket
import subprocess
import sys
import threading

import pytest

LATE = 240  # seconds after which they are killed


class Ranks:
    """A world of processes on this machine, each with its own output and exit code, as srun starts them; `start` is that of `forks`."""

    def __init__(self, start: Callable, size: int, command: list, env: dict, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        here = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONUNBUFFERED": "1"}
        self.errors = [folder / f"stderr-{rank}" for rank in range(size)]
        self.processes = []
        for rank, error in enumerate(self.errors):
            mine = env | here | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with open(error, "w") as file:
                one = start([sys.executable, *map(str, command)], env=mine, stdout=subprocess.PIPE, stderr=file)
            self.processes.append(one)
        self._late = threading.Timer(LATE, self._kill)  # nothing that waits for their output waits for ever
        self._late.start()

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_) -> None:
        self._late.cancel()
        self._kill()
        for one in self.processes:
            one.communicate()

    def _kill(self) -> None:
        for one in self.processes:
            if one.poll() is None:
                one.kill()  # a stopped process too

    def read_until(self, word: str, rank: int = 0) -> str:
        """The first line of a rank's output that holds the word."""
        for line in self.processes[rank].stdout:
            if word in line:
                return line
        return pytest.fail(f"no {word!r}: {self.errors[rank].read_text()[-2000:]}")

    def finish(self, *ranks: int) -> list[int]:
        """Exit codes of these ranks; fails where one does not end."""
        for rank in ranks:
            self.processes[rank].communicate(timeout=120)
        return [self.processes[rank].returncode for rank in ranks]

    def last(self, rank: int) -> str:
        """The last line of a rank's stderr."""
        return self.errors[rank].read_text().strip().splitlines()[-1]
