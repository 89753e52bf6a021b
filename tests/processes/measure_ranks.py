"""Run by test_material: worlds of several sizes, one after another, forked from one process that has done the importing.

python measure_ranks.py DATA OUT SIZE...          OUT/SIZE.json: what its last rank found
"""

import json
import math
import os
from pathlib import Path
import sys
import traceback

import torch
import torch.distributed as dist

from hires.evaluation import Settings, diversity, fidelity, ms_ssim
from hires.evaluation.material import Material, in_ranks
from hires.evaluation.subject import Subject
from pipelines import Shards

SHAPES = ((), (2,), (2, 3))


def rows_of(shape: tuple[int, ...], kind: torch.dtype):
    """A batch's rows as a function of their numbers alone."""
    whole = torch.arange(20 * math.prod(shape)).reshape(20, *shape).to(kind)
    return whole, lambda rows: whole[rows.start : rows.stop]


def property_of_in_ranks() -> list[str]:
    """Counts, batches, shapes and types for which the rows do not come back whole and in order."""
    wrong = []
    for count in (1, 2, 5, 16, 17):
        for at_once in (1, 3, 16):
            for shape in SHAPES:
                for kind in (torch.float32, torch.int64):
                    whole, compute = rows_of(shape, kind)
                    found = in_ranks(count, at_once, compute)
                    if found.dtype != kind or not torch.equal(found, whole[:count]):
                        wrong.append(f"{count} rows {shape} of {kind}, {at_once} at once")
    return wrong


def draw(seeds: list[int]) -> torch.Tensor:
    return torch.stack([torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]) * 2.4 - 1.2


def found_here(data: str, cache: str) -> dict:
    """What every rank finds, all taking part."""
    subject = Subject("s", "", 0, 8, 1, 4, 1.0, torch.device("cpu"), draw=draw)
    material = Material(subject, Shards.open(data), 53)
    material.at_once = 8  # seven batches: not a multiple of any world but 1
    found = {"in_ranks": property_of_in_ranks()}
    found |= ms_ssim.measure(material, Settings(images=53)) | diversity.measure(material, Settings(images=53))
    for features in ("random:0", f"classifier:{data}"):
        config = fidelity.Config(features=features, real=101, labels=100, epochs=1, cache=cache)
        for _ in range(2):  # computed, and from the cache
            found[features.partition(":")[0]] = fidelity.measure(material, Settings(images=53, metrics=config))
    return found


def one_rank(rank: int, size: int, data: str, out: Path) -> None:
    """In a process of its own."""
    status = 1
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{out / f'meeting-{size}'}", rank=rank, world_size=size)
        found = found_here(data, str(out / f"cache-{size}"))
        if rank == size - 1:  # which has what the first has
            (out / f"{size}.json").write_text(json.dumps(found))
        dist.destroy_process_group()
        status = 0
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def main(data: str, out: Path, sizes: list[int]) -> int:
    for size in sizes:
        children = []
        for rank in range(size):
            if not (child := os.fork()):
                one_rank(rank, size, data, out)
            children.append(child)
        if any([os.waitpid(child, 0)[1] for child in children]):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), [int(size) for size in sys.argv[3:]]))
