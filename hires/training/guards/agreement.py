"""Whether the run may continue: every rank learns at the same step that a term of one is not finite, or that one was asked to stop."""

from collections.abc import Iterable, Mapping
import math

import torch
from torch import Tensor
import torch.distributed as dist

from hires.checkpoints.fragments import FIELDS
from hires.errors import NotFinite
from hires.ground import distributed
from hires.ground.distributed import World
from hires.training.player import Player


def not_finite(terms: Mapping[str, Tensor]) -> list[str]:
    """Names of the terms that are not finite though they should be; diversity may be: equal pictures, or a single one, have none."""
    return [name for name, value in terms.items() if name != "diversity" and not math.isfinite(value)]


class Health:
    """The ranks' agreement after each step, looked at one step late, so the host never waits for the device."""

    def __init__(self, world: World, terms: Mapping[str, Iterable[str]]):
        """`terms`: the names of each player's."""
        self.world = world
        self._player_of = {term: player for player, those in terms.items() for term in those}
        self._pending: list[tuple[Tensor, torch.cuda.Event | None, dict[str, Tensor], int]] = []

    def record(self, terms: dict[str, Tensor], norms: dict[str, Tensor], stop_asked: bool, images: int) -> None:
        """After the step at `images`: reduce (stop asked, not finite) over the ranks, start copying it to the host; a collective.

        `norms`: of gradients, by what they are called; where one is not finite its player has not stepped.
        """
        terms = norms | terms
        # a finite sum means finite terms; the spread of a batch of one is NaN and says nothing
        total = torch.stack([m for name, m in terms.items() if name != "diversity"]).sum()
        flags = torch.stack([torch.full((), float(stop_asked), device=total.device), (~torch.isfinite(total)).float()])
        if self.world.size > 1:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        event = None
        if flags.is_cuda:
            host = torch.empty(2, pin_memory=True)
            host.copy_(flags, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            flags = host
        self._pending = [*self._pending[-1:], (flags, event, terms, images)]

    def look(self, newest: bool = False) -> bool:
        """Whether a stop was asked for, the same on all ranks: at the step before the last, or with `newest` at the last.

        Raises NotFinite, on all ranks alike, naming images, players, terms and ranks.
        """
        if not self._pending or (len(self._pending) < 2 and not newest):
            return False
        asked = False
        for flags, event, terms, images in self._pending if newest else self._pending[:1]:
            if event:
                event.synchronize()
            asked = asked or bool(flags[0])
            if flags[1]:
                raise NotFinite(f"at {images} images: {self._told(distributed.gather(not_finite(terms)))}")
        return asked

    def told(self, error: NotFinite) -> str:
        """A refused gradient with the terms of its round that are not finite, of all ranks; a collective."""
        return self._told([[str(error), *names] for names in distributed.gather(not_finite(error.terms))])

    def check_state(self, players: dict[str, Player], images: int) -> None:
        """Before saving: raise NotFinite, on all ranks alike, where a weight, moment or average is not finite; waits for the device."""
        held = [(one, field, [getattr(f, field) for f in one.owned()]) for one in players.values() for field in FIELDS]
        # NaN and infinity show in the smallest and the largest element; one pass, no memory, 10 times as fast as isfinite on a CPU
        ends = [[m for t in tensors for m in torch.aminmax(t)] for _, _, tensors in held]
        good = [torch.stack(both).isfinite().all() if both else True for both in ends]
        bad = [f"the {one.name}'s {field}" for (one, field, _), fine in zip(held, good, strict=True) if not fine]
        found = distributed.gather(bad)
        if any(found):
            raise NotFinite(f"at {images} images: {', '.join(dict.fromkeys(name for names in found for name in names))}")

    def _told(self, names: list[list[str]]) -> str:
        """Each rank's names of gradients and terms, these by player: 'the energy's gradient, from energy: loss_energy, r1 (rank 1)'."""
        players: dict[str, list[str]] = {}
        found = dict.fromkeys(name for those in names for name in those)
        gradients = [name for name in found if name not in self._player_of]
        for term in found:
            if term in self._player_of:
                players.setdefault(self._player_of[term], []).append(term)
        ranks = [rank for rank, those in enumerate(names) if self._player_of.keys() & those]
        where = "" if len(ranks) in (0, len(names)) else f" (rank {', '.join(map(str, ranks))})"
        terms = "; ".join(f"{player}: {', '.join(terms)}" for player, terms in players.items()) + where
        return ", from ".join(filter(None, [", ".join(gradients), terms]))
