"""For the fixture `worlds`: runs in worlds of several sizes, one world after another, forked from one process that has read all settings.

python worlds.py PLAN.json          [[world size, [overrides, ...]], ...]
"""

import gc
import json
import os
from pathlib import Path
import socket
import sys
import traceback

import deepspeed  # noqa: F401 - slow to import: once for all

from hires import config as configuration
from hires.ground import distributed
from hires.training.settings import RunConfig
from hires.training.trainer import Trainer


def one_rank(rank: int, size: int, port: int, runs: list[RunConfig]) -> None:
    """In a process of its own: this rank's part of every run."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    status = 1
    try:
        world = distributed.start(threads=1)
        for config in runs:
            status = Trainer(config, world).train()
            if status:
                break
        distributed.stop()
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(status)


def main(plan: list) -> int:
    gc.freeze()  # a player's end collects garbage: not through all that was imported, each time
    for size, runs in [(size, [configuration.load("train", overrides) for overrides in runs]) for size, runs in plan]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for rank in range(size):
            if not (child := os.fork()):
                one_rank(rank, size, port, runs)
            children.append(child)
        if any([os.waitpid(child, 0)[1] for child in children]):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
