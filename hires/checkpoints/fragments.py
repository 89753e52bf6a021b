"""What a checkpoint holds of a player: stretches of its parameters with Adam's state and the moving average, wherever they are sharded."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
FIELDS = ("weight", *MOMENTS, "ema")


@dataclass
class Fragment:
    """A stretch of one parameter that this rank holds: elements [start, start + numel) of the flattened parameter, fp32 views."""

    name: str
    start: int
    group: str
    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    ema: Tensor

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.weight.numel()


class Saved(Protocol):
    """A player as it is saved."""

    name: str

    @property
    def network(self) -> nn.Module:
        """Its buffers are saved too."""

    def owned(self) -> list[Fragment]:
        """The fragments that this rank writes: over all ranks they cover every parameter exactly once."""

    def steps(self) -> dict[str, int]:
        """Adam's step count for each parameter group."""


class Restored(Protocol):
    """A player as it is filled from a checkpoint."""

    name: str
    fragments: list[Fragment]

    def set_steps(self, steps: dict[str, int]) -> None:
        """Set Adam's step counts; groups not named keep theirs."""
