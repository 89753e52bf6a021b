"""Run by test_run_lock: many processes start at once in a folder that a dead one locked, round after round.

    python racing_starters.py FOLDER STARTERS ROUNDS

A line of JSON for each round: how many had the folder, and how often two had it at once.
"""

import json
import os
from pathlib import Path
import sys
import time

from hires.errors import HiresError
from hires.training.guards.lock import RunLock


def start(folder: Path, go: float, mine: Path) -> None:
    """In a process of its own: has the folder for a moment, or is refused, and says which."""
    while time.monotonic() < go:
        pass
    try:
        with RunLock(folder, say=lambda _: None, watch=0.2):
            alone = folder / "inside"
            descriptor = os.open(alone, os.O_CREAT | os.O_EXCL)  # fails where another is inside
            time.sleep(0.002)
            os.close(descriptor)
            alone.unlink()
            mine.write_text("had")
    except HiresError:
        mine.write_text("refused")
    except FileExistsError:
        mine.write_text("two at once")
    os._exit(0)


def main(root: Path, starters: int, rounds: int) -> None:
    for number in range(rounds):
        folder = root / str(number)
        folder.mkdir()
        if number % 3:  # a dead process's lock; every third round there is none
            if not os.fork():
                RunLock(folder, say=lambda _: None).__enter__()
                os._exit(0)
            os.wait()
        go = time.monotonic() + 0.05
        outcomes = [root / f"{number}-{starter}" for starter in range(starters)]
        for mine in outcomes:
            if not os.fork():
                start(folder, go, mine)
        for _ in outcomes:
            os.wait()
        told = [mine.read_text() if mine.exists() else "died" for mine in outcomes]
        print(json.dumps({word: told.count(word) for word in ("had", "refused", "two at once", "died")}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
