"""Whether the run may go on: every rank learns at the same step that one met a number that is none, or was asked to stop."""

import torch
from torch import Tensor
import torch.distributed as dist

from hires.training.distributed import World


class Health:
    """The ranks' agreement after each step, looked at one step late, so the host never waits for the device."""

    def __init__(self, world: World):
        self.world = world
        self._pending: list[tuple[Tensor, torch.cuda.Event | None, dict[str, Tensor]]] = []

    def record(self, measures: dict[str, Tensor], stop_asked: bool) -> None:
        """After a step: reduce (stop asked, not finite) over the ranks and start copying the answer to the host; a collective."""
        # a finite sum means finite terms; the spread of a batch of one is no number and says nothing
        total = torch.stack([m for name, m in measures.items() if name != "diversity"]).sum()
        flags = torch.stack([torch.tensor(float(stop_asked), device=total.device), (~torch.isfinite(total)).float()])
        if self.world.size > 1:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        event = None
        if flags.is_cuda:
            host = torch.empty(2, pin_memory=True)
            host.copy_(flags, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            flags = host
        self._pending = [*self._pending[-1:], (flags, event, measures)]

    def look(self, newest: bool = False) -> tuple[bool, list[str]]:
        """(stop asked, names of what is not finite), the same on all ranks: of the step before the last, or with `newest` of the last."""
        if not self._pending or (len(self._pending) < 2 and not newest):
            return False, []
        asked, broken = False, []
        for flags, event, measures in self._pending if newest else self._pending[:1]:
            if event:
                event.synchronize()
            asked = asked or bool(flags[0])
            if flags[1] and not broken:
                broken = [name for name, value in measures.items() if not torch.isfinite(value)] or ["a term on another rank"]
        return asked, broken
