"""Run by tests/python/test_functions.py: a program of a person's own that trains by `hires.train`, and looks whether it is left alone.

python guest.py SETTINGS.json FOLDER BOARD    (the settings of a tiny run; where runs go; whether tensorboard is there)

Leaves FOLDER/found.json: what was found, for the test to judge.
"""

import json
import logging
import os
from pathlib import Path
import signal
import sys
import threading

import torch

import hires

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def mine(number: int, _frame) -> None:
    """A handler of this program's own."""


def state() -> dict:
    """What a verb might set for the whole process."""
    return {
        "environment": dict(os.environ),
        "handlers": [repr(signal.getsignal(number)) for number in SIGNALS],
        "logging": [logging.getLogger().level, logging.getLogger("DeepSpeed").level, len(logging.getLogger().handlers)],
        "threads": torch.get_num_threads(),
        "excepthook": repr(sys.excepthook),
        "group": torch.distributed.is_initialized(),
        "random": torch.random.get_rng_state().sum().item(),
    }


def changed(before: dict) -> list[str]:
    """The names of what is no longer as it was."""
    return [name for name, value in state().items() if value != before[name]]


def killed(settings: list[str], run: Path) -> int:
    """The status of a child that trains and is killed by SIGKILL at 64 images, past its newest checkpoint."""
    if not (child := os.fork()):
        from hires.training.trainer import Trainer

        step = Trainer._step

        def dying(trainer, fresh: bool) -> None:
            if trainer.images == 64:
                os.kill(os.getpid(), signal.SIGKILL)
            step(trainer, fresh)

        Trainer._step = dying
        hires.train(settings, run=run)
        os._exit(1)
    return os.waitpid(child, 0)[1]


def interrupted(settings: list[str], run: Path) -> dict:
    """What a run gives back that hears SIGINT after its first step, as of a notebook's stop button."""
    from hires.training.trainer import Trainer

    step = Trainer._step

    def asking(trainer, fresh: bool) -> None:
        step(trainer, fresh)
        if trainer.images == 16:
            os.kill(os.getpid(), signal.SIGINT)

    Trainer._step = asking
    try:
        one = hires.train(settings, run=run)
    finally:
        Trainer._step = step
    return {"images": one.images, "finished": one.finished, "status": one.status}


def main(settings: list[str], folder: Path, board: bool) -> dict:
    import deepspeed  # noqa: F401 - its import makes loggers, which are not what a verb sets

    for number in SIGNALS:
        signal.signal(number, mine)
    logging.getLogger("DeepSpeed").setLevel(logging.INFO)
    torch.set_num_threads(1)
    found = {"killed": killed([*settings, f"monitor.tensorboard={str(board).lower()}"], folder / "killed")}
    before = state()
    one = hires.train(settings, run=folder / "one", train={"threads": 2})
    found["one"] = {"images": one.images, "finished": one.finished, "status": one.status, "changed": changed(before)}
    again = hires.train(settings, run=folder / "killed", monitor={"tensorboard": board})
    found["again"] = {"images": again.images, "finished": again.finished, "changed": changed(before)}
    results = []
    thread = threading.Thread(target=lambda: results.append(hires.train(settings, run=folder / "thread", train={"hang_timeout": "1s"})))
    thread.start()
    thread.join()
    found["records"], found["pictures"] = results[0].metrics, [path.name for path in results[0].pictures]
    found["thread"] = {"finished": results[0].finished, "changed": changed(before)}
    found["interrupted"] = interrupted(settings, folder / "interrupted") | {"changed": changed(before)}
    errors = []
    for wrong in ({"bogus": 1}, {"zero": {"stage": 7}}, {"data": {"root": folder / "nowhere"}}):
        try:
            hires.train(settings, run=folder / "wrong", **wrong)
        except hires.HiresError as error:
            errors.append(str(error))
    found["errors"] = errors
    found["after errors"] = changed(before)
    return found


if __name__ == "__main__":
    told = main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3] == "1")
    (Path(sys.argv[2]) / "found.json").write_text(json.dumps(told))
