"""Samples of an energy by persistent Langevin chains: their buffer and their settings.

The buffer holds N pictures. Slot s belongs to place floor(s B / N) of the global batch, so the place draws from slots of its own alone:
whoever computes a row of the batch, in whatever world, finds the same picture, and a rank holds just the slots of its rows. They are
stored as 8 bits a value and taken out with uniform noise of one step of these. When the resolution doubles each picture goes on, enlarged.
"""

from dataclasses import dataclass
from itertools import pairwise
import math

import torch
from torch import Tensor, nn
import torch.distributed as dist
from torch.nn.utils import parametrize

from hires.errors import HiresError
from hires.ground.ranges import setting
from hires.networks.growing import upsample
from hires.objectives import langevin
from hires.objectives.base import AT_ONCE, Carried, Draw, Pictures

NAME = "replay"  # in a checkpoint


@dataclass
class ChainsConfig:
    """Langevin chains on pictures in [-1, 1]: x <- x - clamp(step_size r^2 dU/dx, ±reach) + noise e, then clamped to that range.

    With `noise_first`, as P4's code, x + noise e is where the slope is taken and the step begins, so that a chain ends without noise.

    r^2, the number of pixels: what an energy falls by is shared among them, so with this a step is as far at every resolution.
    """

    steps: int = setting(20, at_least=1)  # a round
    step_size: float = setting(0.15, above=0)
    noise: float = setting(0.01, at_least=0, below=math.inf)
    noise_first: bool = False  # before the slope, not after
    reach: float = setting(0.1, above=0)  # no value moves further in a step, its noise apart
    replay: int = setting(10_000, at_least=1)  # pictures in the buffer, of all ranks together
    restart: float = setting(0.05, at_least=0, at_most=1)  # chance that a chain begins again, from uniform noise
    # sample: each picture's noise by its own number, on the device | batch: the global batch's, on every rank's CPU (runs before this was)
    drawn: str = setting("sample", among=("sample", "batch"))

    def bytes(self, resolution: int, channels: int) -> int:
        """Bytes of the buffer, of all ranks together."""
        return self.replay * channels * resolution**2


def first_slot(place: int, slots: int, places: int) -> int:
    """The first of `slots` slots that belong to `place` of `places`: the least s with floor(s places / slots) = place."""
    return -(-place * slots // places)


class Replay:
    """This rank's slots of the buffer."""

    def __init__(self, slots: int):
        """`slots`: N, of all ranks together; empty until `fit`."""
        self.slots = slots
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.first = first_slot(self.rank, slots, self.size)
        self.pictures: Tensor | None = None  # uint8: (n, C, r, r), or flat rows as they come out of a checkpoint

    def fit(self, like: Tensor, draw: Draw) -> None:
        """Make the buffer one of pictures like the rank's batch (b, C, r, r): fill an empty one with uniform noise, enlarge smaller ones.

        Raises HiresError where a place of the batch would have no slot.
        """
        b, channels, resolution, _ = like.shape
        if self.slots < b * self.size:
            raise HiresError(f"objective.chains.replay={self.slots}: wanted at least the batch, {b * self.size}")
        if self.pictures is None:
            most = -(-self.slots // (b * self.size))
            noise = uniform(draw("replay", most * like[0].numel())).view(b, most, channels, resolution, resolution)
            self.pictures = to_bytes(torch.cat([noise[i, :n] for i, n in enumerate(self._counts(b))]) * 2 - 1)
        if self.pictures.dim() == 2:
            side = math.isqrt(self.pictures.shape[1] // channels)
            self.pictures = self.pictures.view(-1, channels, side, side)
        while self.pictures.shape[-1] < resolution:
            self.pictures = upsample(self.pictures)
        self.pictures = self.pictures.to(like.device)

    def choose(self, share: Tensor) -> Tensor:
        """A slot of its own for each of the rank's places, by a number in [0, 1) for each (b,): indices into `pictures`."""
        b, places = len(share), len(share) * self.size
        # first_slot of each place and the next, on the device: numbers from the host would make it wait
        first = (torch.arange(self.rank * b, self.rank * b + b + 1, device=share.device) * self.slots + places - 1) // places - self.first
        counts = first.diff()
        return first[:-1] + torch.minimum((share * counts).long(), counts - 1)

    def carried(self) -> Carried:
        """What a checkpoint is to hold: this rank's pictures and where they begin."""
        if self.pictures is None:
            return {}
        return {NAME: (self.pictures.flatten(), self.first * self.pictures[0].numel())}

    def restore(self, checkpoint) -> None:
        """Take this rank's slots out of a checkpoint of any world; raises HiresError where its buffer has another number of slots."""
        if NAME not in checkpoint.names("carried", "state"):
            return
        whole = checkpoint.numel("carried", NAME, "state")
        held = checkpoint.manifest["config"]["objective"]["chains"]["replay"]
        if held != self.slots:
            raise HiresError(f"objective.chains.replay={self.slots}: {checkpoint.path} has {held} pictures; wanted the same")
        size, end = whole // self.slots, first_slot(self.rank + 1, self.slots, self.size)
        flat = checkpoint.read("carried", NAME, "state", self.first * size, (end - self.first) * size)
        self.pictures = flat.view(-1, size)

    def _counts(self, b: int) -> list[int]:
        """Slots of each of the rank's b places."""
        ends = [first_slot(self.rank * b + i, self.slots, b * self.size) for i in range(b + 1)]
        return [after - before for before, after in pairwise(ends)]


class Chains:
    """The negatives of a system without a generator: pictures of the buffer, some begun again, after a few Langevin steps."""

    def __init__(self, config: ChainsConfig):
        self.config, self.buffer = config, Replay(config.replay)

    def go_on(
        self, energy, x: Tensor, alpha: float, draw: Draw, micro_batch: int = 0, labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples (b, C, r, r) for the rank's real images x, put back into the buffer, and terms of the chains.

        `energy` maps images, with `labels` (b,) where given, to (B,), in a fade as at `alpha`. Images are handled `micro_batch` at a time,
        their noise drawn alike. As in P4's code the buffer knows no labels: a picture goes on under that of the row which takes it out.
        """
        self.buffer.fit(x, draw)
        chosen = draw("chain", 2 + x[0].numel())
        share, chance, noise = (uniform(t) for t in (chosen[:, 0], chosen[:, 1], chosen[:, 2:]))
        slots = self.buffer.choose(share)
        from_buffer = (self.buffer.pictures[slots] + (noise.view(x.shape) - 0.5)) / 127.5 - 1
        begin = torch.where((chance < self.config.restart)[:, None, None, None], noise.view(x.shape) * 2 - 1, from_buffer)
        x_q, terms = refine(self.config, energy, begin, draw, micro_batch, labels)
        self.buffer.pictures[slots] = to_bytes(x_q)
        return x_q, terms

    def pictures(self, networks: dict[str, nn.Module], count: int) -> Pictures:
        """`chains`: the first `count` pictures of this rank's buffer.

        Where the energy has classes, each after the steps of one more round under its column's label: 0, 1, …, from the left.
        """
        kept = self.buffer.pictures[:count].float() / 127.5 - 1
        classes = getattr(networks["energy"], "classes", 0)
        if not classes:
            return {"chains": (kept, None)}
        labels = torch.arange(len(kept), device=kept.device) % classes
        x, _ = refine(self.config, lambda x, y: networks["energy"](x, 1.0, y), kept, repeated(len(kept), kept.device), AT_ONCE, labels)
        return {"chains": (x, classes)}


def repeated(count: int, device: torch.device) -> Draw:
    """Noise for `count` pictures of a grid, the same each time."""
    dice = torch.Generator().manual_seed(0)
    return lambda stream, size: torch.randn(count, size, generator=dice).to(device)


def refine(
    config: ChainsConfig, energy, begin: Tensor, draw: Draw, micro_batch: int = 0, labels: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Where `config.steps` Langevin steps lead from `begin` (b, C, r, r), and terms of them; noise from the streams langevin0, …

    `energy` maps images to (B,), or where given images and their `labels` (b,). Weights under spectral normalisation are made once for
    all steps.
    """
    parts = list(begin.split(micro_batch or len(begin)))
    of = [energy] * len(parts) if labels is None else [lambda x, y=y: energy(x, y) for y in labels.split(micro_batch or len(begin))]
    slope, size = torch.zeros((), device=begin.device), config.step_size * begin.shape[-1] ** 2
    with parametrize.cached():
        for k in range(config.steps):
            kicks = (config.noise * draw(f"langevin{k}", begin[0].numel())).view(begin.shape).split(micro_batch or len(begin))
            for i, kick in enumerate(kicks):
                if config.noise_first:
                    parts[i], kick = parts[i] + kick, None
                parts[i], g = langevin.step(of[i], parts[i], size, kick, config.reach, bound=1.0)
                slope = slope + g.flatten(1).norm(dim=1).sum()
    end = torch.cat(parts)
    moved = (end - begin).square().mean((1, 2, 3)).sqrt().mean()
    return end, {"chain_slope": slope / len(begin) / config.steps, "chain_moved": moved}


def uniform(normal: Tensor) -> Tensor:
    """N(0, 1) noise as U(0, 1) noise, by the normal distribution function."""
    return torch.special.ndtr(normal)


def to_bytes(x: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, rounded."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
