"""Run by test_saving: saves a checkpoint over and over, each time killed (SIGKILL) one step of its file work later than the time before.

    python killed_saves.py FOLDER

A line of JSON for each kill: before which call, which checkpoint a reader finds, what is left after a restart has tidied up.
"""

import json
import os
from pathlib import Path
import shutil
import signal
import sys

from cut import one_tensor
import torch
import torch.distributed as dist

from hires.checkpoints import reading, retention, writing
from hires.checkpoints.retention import Policy

WATCHED = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")


def save_until(folder: Path, moment: int) -> None:
    """In a process of its own: saves 64 over a half 64 and deletes 32; killed before the `moment`-th call that touches the disk."""
    calls = [0]

    def count(name: str) -> None:
        calls[0] += 1
        if calls[0] == moment:
            (folder.parent / "call").write_text(name) if name != "open" else os.write(told, b"open")
            os.kill(os.getpid(), signal.SIGKILL)

    told = os.open(folder.parent / "call", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    real = os.fsync
    os.fsync = lambda descriptor: (count("fsync"), real(descriptor))
    inside = [False]

    def audit(event: str, arguments: tuple) -> None:
        if event in WATCHED and not inside[0] and (event != "open" or str(folder) in str(arguments[0])):
            inside[0] = True
            count(event)
            inside[0] = False

    sys.addaudithook(audit)
    with writing.Saver(folder, Policy(1, levels=False), say=lambda _: None) as saver:
        saver.save(one_tensor(torch.full((1000,), 64.0)), 64, {"resolution": 4, "config": {}})
    os._exit(0)


def main(root: Path) -> None:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    torch.set_num_threads(1)
    for moment in range(1, 200):
        folder = root / "checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        writing.save(folder, one_tensor(torch.full((1000,), 32.0)), 32, {"resolution": 4, "config": {}})
        (folder / reading.folder_name(64)).mkdir()  # as a copy that was broken off leaves it
        child = os.fork()
        if not child:
            save_until(folder, moment)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        warned: list[str] = []
        found = reading.from_first_rank(folder, warned.append)
        value = found.read("energy", "levels.4x4.w", "weight", 0, 1000).unique().tolist()
        left = sorted(path.name for path in folder.iterdir())
        problems = {path.name: reading.verify(path) for path in reading.complete(folder)}
        call = (root / "call").read_text() if killed else "none"
        print(json.dumps({"call": call, "images": found.images, "value": value, "left": left, "problems": problems}), flush=True)
        retention.tidy(folder, lambda text: sys.exit(f"left over: {text}"))
        if not killed:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
