"""What every system's round is given and gives back."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# draw(stream, size) -> this rank's rows of the global batch's N(0, 1) noise (B, size), a function of (seed, stream, images seen)
Draw = Callable[[str, int], Tensor]
# what a grid in RUN/samples shows: name -> images (N, C, r, r) in [-1, 1], and the grid's columns (None: as square as it gets)
Pictures = dict[str, tuple[Tensor, int | None]]


@dataclass
class Rates:
    """Learning rates and moving-average decay of a round."""

    lr: float
    energy_lr: float
    ema_decay: float


class CarriesNothing:
    """Of an objective whose players are all that a checkpoint holds."""

    def carried(self) -> dict[str, tuple[Tensor, int]]:
        """Tensors that go from step to step beside the players: name -> (this rank's stretch, flattened; its start in the whole)."""
        return {}

    def restore(self, checkpoint) -> None:
        """Take up what `carried` gave when `checkpoint` was written: `checkpoint.read("carried", name, "state", start, numel)`."""


class Record:
    """Sums of the round's measures over its micro-batches, on the device: nothing waits for the host."""

    def __init__(self, share: float):
        """`share`: one over the number of micro-batches."""
        self.share = share
        self.means: dict[str, Tensor] = {}

    def add(self, **measures: Tensor) -> None:
        """Add a micro-batch's means."""
        for name, value in measures.items():
            value = value.detach().float() * self.share
            self.means[name] = self.means[name] + value if name in self.means else value


def in_parts(function: Callable[[Tensor], Tensor], inputs: Tensor, size: int = 16) -> Tensor:
    """function(inputs), computed for `size` rows at a time."""
    return torch.cat([function(part) for part in inputs.split(size)])
