"""The schedule: a pure function from images seen to the phase of the run (resolution, fade-in alpha, batch, learning rates)."""

from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
import math
import re

from hires.errors import HiresError
from hires.ground.ranges import check_ranges, setting


def parse_images(text: str, name: str = "images") -> int:
    """A number of images written 600000, 600k or 1.5M; raises HiresError naming the setting."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kM]?)", str(text).strip())
    if not match:
        raise HiresError(f"{name}={text}: wanted a number of images such as 5000, 600k or 1.2M")
    number = Decimal(match[1]) * {"": 1, "k": 1_000, "M": 1_000_000}[match[2]]
    if number >= 2**63:
        raise HiresError(f"{name}: wanted fewer than 2^63 images")
    return round(number)


@dataclass
class LevelConfig:
    """One resolution's row of the schedule."""

    fade: str = "0"  # images over which the level fades in
    stable: str = "0"  # images after that
    batch: int = 32  # global batch
    micro_batch: int = 0  # images a rank computes at once; 0 = its whole share of the batch
    lr: float = 1e-3  # of generator and inference model; the energy's is lr * energy_lr


@dataclass
class ScheduleConfig:
    """When the networks grow and how fast they learn."""

    levels: dict[str, LevelConfig] = field(default_factory=dict)  # keys are resolutions; text, so the command line can name them
    resolution: int = 0  # where the growth ends; 0 = the last level of the table
    energy_lr: float = setting(2.0, at_least=0, below=math.inf)  # the energy's learning rate over the others' (docs/reference/stability.md)
    decay: str = "0"  # images at the end of the run over which learning rates fall linearly to zero
    decay_factor: float = setting(1.0, above=0, at_most=1)  # learning rates are multiplied by it every
    decay_every: str = ""  # images (as published: one epoch); empty = never
    growth_moments: str = setting("reset", among=("reset", "keep"))  # Adam's moments when a level is added: reset (ProGAN) | keep
    ema_halflife: str = "20k"  # of the weights' moving average, at most a tenth of the images that the level has seen
    nodes_at: str = ""  # nodes of a Slurm cluster from a level on, such as 4:1,64:2,256:4: slurm/chain submits a job for each


@dataclass(frozen=True)
class Shape:
    """What decides the networks' parameters: they are rebuilt when it changes."""

    resolution: int
    fading: bool


@dataclass(frozen=True)
class Phase:
    """What holds for the step that starts after `images` images."""

    images: int
    resolution: int
    fading: bool
    alpha: float  # in (0, 1] while fading, else 1
    batch: int  # global
    micro_batch: int  # per rank, 0 = all at once
    lr: float
    energy_lr: float
    ema_halflife: float  # images
    level_start: int  # images seen when this resolution began

    @property
    def shape(self) -> Shape:
        """Of the networks."""
        return Shape(self.resolution, self.fading)


@dataclass(frozen=True)
class Level:
    """A row of the resolved schedule: images from `start` to `end`, the first `fade` of them fading in."""

    resolution: int
    start: int
    fade: int
    end: int
    config: LevelConfig


class Schedule:
    """The whole schedule, checked when it is made; raises HiresError for a hole, an empty level or a bad value."""

    def __init__(self, config: ScheduleConfig):
        self.config = config
        self.levels = _resolve(config)
        self.total = self.levels[-1].end
        self.decay = parse_images(config.decay, "schedule.decay")
        self._every = parse_images(config.decay_every, "schedule.decay_every") if config.decay_every else 0
        self._halflife = parse_images(config.ema_halflife, "schedule.ema_halflife")
        check_ranges(config, "schedule.")
        if config.decay_factor < 1 and not self._every:
            raise HiresError(f"schedule.decay_factor={config.decay_factor}: wanted schedule.decay_every beside it, in images such as 50k")
        if not self._halflife:
            raise HiresError(f"schedule.ema_halflife={config.ema_halflife}: wanted at least 1 image")
        if self.decay > self.total:
            raise HiresError(f"schedule.decay={config.decay}: the whole run has only {self.total} images")
        self.nodes_at = _nodes_at(config)

    def at(self, images: int) -> Phase:
        """The phase of the step that starts after `images` images, 0 <= images < total."""
        level = next(level for level in self.levels if images < level.end)
        seen = images - level.start
        fading = seen < level.fade
        row = level.config
        # alpha at the middle of the step: never 0, so the new level learns from its first step on
        alpha = min(1.0, (seen + row.batch / 2) / level.fade) if fading else 1.0
        lr = row.lr * (min(1.0, (self.total - images) / self.decay) if self.decay else 1.0)
        if self._every:
            lr *= self.config.decay_factor ** (images // self._every)
        halflife = min(self._halflife, (seen + row.batch / 2) / 10)  # a new layer's average is to forget its random start
        return Phase(
            images, level.resolution, fading, alpha, row.batch, row.micro_batch, lr, lr * self.config.energy_lr, halflife, level.start
        )

    def ahead(self, images: int) -> Phase:
        """The phase of the step after `images`; at the end of the schedule the last one."""
        return self.at(min(images, self.total - 1))

    def behind(self, images: int) -> Phase:
        """The phase of the step that led to `images`; at the beginning the first one."""
        return self.at(max(0, min(images, self.total) - 1))

    def end(self, max_images: str) -> int:
        """Images at which a run ends that train.max_images cuts short where it is not empty."""
        return min(parse_images(max_images, "train.max_images"), self.total) if max_images else self.total

    def nodes(self, resolution: int) -> int:
        """Nodes of a level by schedule.nodes_at; 0 where it says nothing."""
        return next((nodes for first, nodes in reversed(self.nodes_at.items()) if first <= resolution), 0)

    @cached_property
    def steps(self) -> dict[tuple[int, bool], int]:
        """Optimizer steps for each (resolution, fading)."""
        count: dict[tuple[int, bool], int] = {}
        for level in self.levels:
            fade = math.ceil(level.fade / level.config.batch)
            count[level.resolution, True] = fade
            count[level.resolution, False] = (level.end - level.start) // level.config.batch - fade
        return count

    def check_world(self, world_size: int) -> None:
        """Raise HiresError unless every global batch divides over `world_size` ranks and their micro-batches."""
        for level in self.levels:
            batch, micro = level.config.batch, level.config.micro_batch
            if batch % world_size:
                raise HiresError(f"schedule.levels.{level.resolution}.batch={batch}: not divisible by the world size {world_size}")
            if micro and (batch // world_size) % micro:
                raise HiresError(
                    f"schedule.levels.{level.resolution}.micro_batch={micro}: does not divide a rank's {batch // world_size} images"
                )


def _resolve(config: ScheduleConfig) -> list[Level]:
    bad = [key for key in config.levels if not key.isdecimal()]
    if bad:
        raise HiresError(f"schedule.levels.{bad[0]}: wanted a resolution such as 64")
    rows = {r: config.levels[str(r)] for r in sorted(map(int, config.levels))}
    if config.resolution:
        if config.resolution not in rows:
            raise HiresError(f"schedule.resolution={config.resolution}: schedule.levels has {_names(rows)}")
        rows = {r: row for r, row in rows.items() if r <= config.resolution}
    if not rows:
        raise HiresError("schedule.levels is empty: wanted a row for each resolution, such as schedule=progan")
    first, last = min(rows), max(rows)
    for r in rows:
        if r < 4 or (r & (r - 1) and (len(rows) > 1 or r % 4)):
            wanted = "a power of two, at least 4; alone in its schedule, for networks that do not grow, a multiple of 4 such as 28"
            raise HiresError(f"schedule.levels.{r}: a resolution is {wanted}")
    missing = [2**k for k in range(first.bit_length(), last.bit_length()) if 2**k not in rows]
    if missing:
        raise HiresError(f"schedule.levels has a hole: {_names(rows)} but no {_names(missing)}")
    levels, start = [], 0
    for r, row in rows.items():
        where = f"schedule.levels.{r}"
        fade, stable = parse_images(row.fade, f"{where}.fade"), parse_images(row.stable, f"{where}.stable")
        if row.batch < 1 or row.micro_batch < 0:
            raise HiresError(f"{where}: batch={row.batch} micro_batch={row.micro_batch}: wanted batch >= 1 and micro_batch >= 0")
        if not 0 < row.lr < math.inf:
            raise HiresError(f"{where}.lr={row.lr}: wanted a positive learning rate")
        if fade and r == first:
            raise HiresError(f"{where}.fade={row.fade}: the first level has nothing to fade in from; wanted 0")
        if not stable:
            raise HiresError(f"{where}.stable={row.stable}: a level needs images after its fade-in")
        # a level ends with a whole step, so its length is rounded up to its batch
        end = start + math.ceil((fade + stable) / row.batch) * row.batch
        levels.append(Level(r, start, fade, end, row))
        start = end
    return levels


def _nodes_at(config: ScheduleConfig) -> dict[int, int]:
    """{first resolution: nodes}, from the lowest on."""
    found: dict[int, int] = {}
    for part in config.nodes_at.split(",") if config.nodes_at else []:
        match = re.fullmatch(r"\s*(\d+)\s*:\s*([1-9]\d*)\s*", part)
        if not match:
            raise HiresError(f"schedule.nodes_at={config.nodes_at}: wanted levels and numbers of nodes such as 4:1,64:2")
        found[int(match[1])] = int(match[2])
    lowest = min(map(int, config.levels))
    unknown = [r for r in found if str(r) not in config.levels]
    if unknown:
        raise HiresError(f"schedule.nodes_at={config.nodes_at}: schedule.levels has no {_names(unknown)}")
    if found and lowest not in found:
        raise HiresError(f"schedule.nodes_at={config.nodes_at}: no entry for {lowest}x{lowest}, the first level")
    return dict(sorted(found.items()))


def _names(resolutions) -> str:
    return ", ".join(str(r) for r in resolutions)
