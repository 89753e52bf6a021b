"""Work cut into pieces that are shared among processes and kept on disk, so that an interrupted search continues."""

from collections.abc import Callable
from pathlib import Path
import time

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
import torch.distributed as dist

from hires.errors import HiresError
from hires.ground.files import whole_file

Piece = dict[str, Tensor]
SEEN_WITHIN = 120  # seconds until another machine's file must be seen here: network file systems hold back what is new


class Work:
    """Pieces by stage and number, each a file of tensors in `folder` that appears when it is whole."""

    def __init__(self, folder: Path, show: Callable[[str, int, int], None] = lambda stage, done, of: None):
        """`show(stage, pieces done, of)` is called on the way. The folder must be the same disk for all processes."""
        self.folder, self.show = folder, show

    def do(self, stage: str, count: int, compute: Callable[[int], Piece]) -> list[Piece]:
        """All pieces 0 … count - 1 of a stage, in order, on every rank; those not there are computed, rank k the k-th, (k + world)-th …

        `compute` must be a function of its number alone: then what comes out does not depend on the number of processes.
        """
        paths = [self.folder / f"{stage}-{i:04d}.safetensors" for i in range(count)]
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self._meet(size)  # all see the same missing ones
        missing = [i for i in range(count) if not paths[i].exists()]
        self._meet(size)  # before the first new one is there
        self.show(stage, count - len(missing), count)
        for i in missing[rank::size]:
            piece = {name: value.detach().cpu().contiguous() for name, value in compute(i).items()}
            with whole_file(paths[i]) as part:
                part.write_bytes(save(piece))
            self.show(stage, sum(path.exists() for path in paths), count)
        self._meet(size)
        return [_read(path) for path in paths]

    def _meet(self, size: int) -> None:
        if size > 1:
            dist.barrier()


def _read(path: Path) -> Piece:
    end = time.monotonic() + SEEN_WITHIN
    while not path.exists():
        if time.monotonic() > end:
            raise HiresError(f"{path}: not visible to this process; wanted a folder on a disk that all processes share")
        time.sleep(0.2)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise HiresError(f"{path}: damaged ({error}); remove it, and the same command makes it again") from error
