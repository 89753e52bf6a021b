"""One of two processes that share a search: landscape_ranks.py FOLDER RANK."""

from pathlib import Path
import sys

import torch
from torch import Tensor
import torch.distributed as dist

from hires.evaluation.landscape.exploration import Config, search
from hires.evaluation.landscape.field import Field
from hires.evaluation.landscape.work import Work


def waves(x: Tensor) -> Tensor:
    """Many minima in three dimensions."""
    return (3 * x).cos().sum(1) + x.square().sum(1) / 4 + x.prod(1) / 9


def shared(out: Path) -> None:
    """Search into `out`: three pieces of starts, several of barriers."""
    config = Config(starts=70, depth=0.2, walks=1, steps=30, points=6, relax=2, leaves=6, neighbours=1)
    search(Field(waves), lambda i: torch.randn(3, generator=torch.Generator().manual_seed(i)), config, Work(out))


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, rank = sys.argv[1:]
    dist.init_process_group("gloo", init_method=f"file://{out}.meeting", rank=int(rank), world_size=2)
    shared(Path(out))
    dist.destroy_process_group()
