"""Run by test_watchdog as one rank: hanging.py LIMIT RANK WHAT [PATH]: ranks meet once a step, and at step 5 rank RANK does WHAT.

WHAT: nothing, lock (after two steps that take two thirds of the limit each), file (reads a pipe that nobody writes), gil (sleeps and
lets no other thread run).
"""

import ctypes
from itertools import count
from pathlib import Path
import sys
import threading
import time

import torch
import torch.distributed as dist

from hires.ground.distributed import World
from hires.training.guards.watchdog import Watchdog


def hang(what: str, path: str) -> None:
    if what == "lock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    elif what == "file":
        Path(path).read_text()
    elif what == "gil":
        ctypes.PyDLL(None).sleep(1000)


def main(limit: float, guilty: int, what: str, path: str = "") -> None:
    dist.init_process_group("gloo")
    world = World(dist.get_rank(), dist.get_world_size(), 0, torch.device("cpu"))
    with Watchdog(world, limit) as watchdog:
        for step in count():
            watchdog.at("reading images", step)
            if world.rank == guilty and step in (3, 4) and what == "lock":
                time.sleep(limit * 2 / 3)
            if world.rank == guilty and step == 5:
                hang(what, path)
            watchdog.at("a step", step)
            dist.all_reduce(torch.zeros(1))
            if step == 5:
                print("five", flush=True)
            time.sleep(0.01)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
