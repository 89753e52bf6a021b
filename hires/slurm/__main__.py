"""What slurm/job.sh and slurm/chain ask: whether a job that failed goes back into the queue, and which jobs a run wants."""

import os
from pathlib import Path
import sys

from hires import config as configuration
from hires.errors import HiresError
from hires.ground.terminal import speak_utf8
from hires.slurm import jobs


def main(arguments: list[str]) -> int:
    """What slurm/ asks: `python -m hires.slurm STATUS SETTINGS…` after a failure says why, and returns 0 for a requeue and else 1;
    `python -m hires.slurm chain TASKS SETTINGS…` says "NODES IMAGES" for each job to submit."""
    try:
        if arguments[0] == "chain":
            asked = jobs.chain(configuration.load("train", arguments[2:]), int(arguments[1]))
            print("".join(f"{nodes} {end}\n" for nodes, end in asked), end="")
            return 0
        again, why = jobs.after_failure(Path(configuration.load("train", arguments[1:]).run), int(arguments[0]), os.environ)
    except HiresError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(why)
    return 0 if again else 1


if __name__ == "__main__":
    speak_utf8()
    sys.exit(main(sys.argv[1:]))
