"""Run by test_saving under torchrun: saves beside collectives of the main threads, and one that fails on the last rank alone.

    torchrun --nproc_per_node W saving_ranks.py OUT

writes OUT/rank-R.json: the errors that this rank met, and the sums that its main thread got while its thread saved.
"""

import json
from pathlib import Path
import resource
import sys
import time

from cut import one_tensor
import torch
import torch.distributed as dist

from hires.checkpoints import writing
from hires.checkpoints.retention import Policy
from hires.errors import HiresError
from hires.ground import distributed

NUMEL = 50_000
INFO = {"resolution": 4, "config": {}}


def main(out: Path) -> None:
    world = distributed.start(threads=1)
    errors, sums, lines = [], [], []
    real = writing.write

    def slow(path: Path, data: memoryview) -> dict:
        time.sleep(0.2 * world.rank)  # the ranks' threads reach their agreements at other moments than the main threads theirs
        return real(path, data)

    writing.write = slow
    with writing.Saver(out / "checkpoints", Policy(9), lines.append) as saver:
        for images in (16, 32):
            saver.save(one_tensor(torch.full((NUMEL,), float(images + world.rank)), world.rank * NUMEL), images, INFO)
            for i in range(200):
                value = torch.full((8,), float(i))
                dist.all_reduce(value)
                sums.append(value[0].item() == i * world.size)
        saver.join()
        if world.rank == world.size - 1:  # no file of this rank may grow beyond this: what a quota does
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        saver.save(one_tensor(torch.ones(NUMEL)), 48, INFO)
        asked = 0
        while not errors and asked < 1000:
            asked += 1
            try:
                saver.poll()
            except HiresError as error:
                errors.append(str(error))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        same = distributed.gather(asked)  # all learnt it at the same call
        saver.save(one_tensor(torch.full((NUMEL,), 64.0 + world.rank), world.rank * NUMEL), 64, INFO)
    result = {"errors": errors, "sums": all(sums) and len(sums) == 400, "same": len(set(same)) == 1, "lines": lines}
    (out / f"rank-{world.rank}.json").write_text(json.dumps(result))
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
