"""A stand-in for a player, where a test is about files and not about training."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hires.checkpoints.fragments import Fragment


@dataclass
class Cut:
    """Its parameters are cut into given stretches."""

    name: str
    network: nn.Module
    pieces: list[Fragment]

    def owned(self) -> list[Fragment]:
        return self.pieces

    def steps(self) -> dict[str, int]:
        return {"4x4": 7}


def one_tensor(weight: Tensor, start: int = 0) -> dict[str, Cut]:
    """Players with one parameter, of which this is the stretch from `start` on; its other fields are zeros."""
    piece = Fragment("levels.4x4.w", start, "4x4", weight, *(torch.zeros_like(weight) for _ in range(3)))
    return {"energy": Cut("energy", nn.Module(), [piece])}
