"""How a schedule scales over GPUs, on paper: the time of a step from measured times of one device, bytes moved and bandwidths.

The global batch is the schedule's, so more GPUs means fewer images each, while what a round costs whatever its batch stays. Communication
is not overlapped with computing (`overlap_comm` is off). docs/reference/planning.md has the assumptions,
docs/records/performance.md predictions beside measured times.
"""

from collections.abc import Iterator
from dataclasses import dataclass
import math

from torch import nn

from hires.ground.machine import DTYPES
from hires.planning.memory import level_networks, share_of
from hires.planning.steptime import StepTime
from hires.training.player import bucket, group_of
from hires.training.schedule import Level, Schedule
from hires.training.settings import RunConfig

SMALL = {1: 3, 2: 3, 3: 2}  # stage -> collectives of a few numbers in a player's step: the gradient's norm, whether it is finite

# ------------------------------------------------------------------------------------------------ bytes


@dataclass(frozen=True)
class Collective:
    """What a round asks of the ranks together: `calls` collectives of `size` bytes in all, the whole tensors counted."""

    kind: str  # all_reduce | all_gather | reduce_scatter
    size: float
    calls: float


def gathers(config: RunConfig, parts: int) -> dict[str, int]:
    """How often a round of `parts` micro-batches fetches each player's weights on stage 3, as counted in real rounds.

    DeepSpeed lets go of them where two passes through a network follow one another, and keeps them from a pass to its backward. Exact with
    one step of the generator a round and the orders other than published; those were counted up to 8 % higher.
    """
    order, extra = config.objective.updates, parts * (config.objective.generator_steps - 1)
    generator = 4 if parts == 1 else (6 if order == "published" else 5) * parts  # the synthesis is made again for each part
    return {
        "generator": generator + 3 * extra,
        "energy": (1 if order == "simultaneous" else 2) * parts + extra,
        "inference": (2 if order == "published" else 1) * parts + extra,
    }


def traffic(config: RunConfig, built: dict[str, nn.Module], parts: int, world_size: int) -> dict[str, list[Collective]]:
    """The collectives of a round for each player, `built` its networks (on any device); none in a world of one."""
    if world_size == 1:
        return {name: [] for name in built}
    stage = config.zero.stage
    number = DTYPES[config.train.precision].itemsize
    found = {}
    for name, network in built.items():
        steps = config.objective.generator_steps if name == "generator" else 1
        sizes = [p.numel() for p in network.parameters()]
        total, share = sum(sizes), share_of(network, stage, world_size)
        if stage == 0:
            found[name] = [Collective("all_reduce", steps * 4 * total, steps)]
        elif stage == 3:
            times = gathers(config, parts)[name]
            found[name] = [
                Collective("all_gather", times * number * share * world_size, times * sum(1 for _ in _fetched(network))),
                Collective("reduce_scatter", steps * number * share * world_size, steps * (_buckets(sizes) + SMALL[stage])),
            ]
        else:
            groups = len({group_of(n) for n, _ in network.named_parameters()})
            found[name] = [
                Collective("all_reduce", steps * number * total, steps * (_buckets(sizes) + SMALL[stage])),
                Collective("all_gather", steps * number * share * world_size, steps * groups),
            ]
    return found


def _buckets(sizes: list[int]) -> int:
    """Reductions that parameters of these sizes are put into, in their order."""
    count, filled, limit = 1, 0, bucket(sizes)
    for size in sizes:
        if filled + size > limit:
            count, filled = count + 1, 0
        filled += size
    return count


def _fetched(network: nn.Module) -> Iterator[nn.Module]:
    """Modules with weights of their own: stage 3 fetches them one by one."""
    return (module for module in network.modules() if any(True for _ in module.parameters(recurse=False)))


def sent(collective: Collective, world_size: int) -> float:
    """Bytes that each rank sends in a ring of `world_size`."""
    once = (world_size - 1) / world_size * collective.size
    return 2 * once if collective.kind == "all_reduce" else once


# ------------------------------------------------------------------------------------------------ seconds


@dataclass(frozen=True)
class Cluster:
    """Nodes of GPUs; bandwidths in bytes/s, one direction, of a node's network and of a GPU inside its node; latency in s a collective."""

    nodes: int
    gpus: int
    between: float
    inside: float
    latency: float

    @property
    def size(self) -> int:
        """GPUs in all."""
        return self.nodes * self.gpus


def seconds(collective: Collective, cluster: Cluster) -> float:
    """Time of a collective in two tiers: reduced (and gathered) inside each node, and between nodes each GPU with its like.

    Inside: (g-1)/g of the bytes at a GPU's bandwidth, between: (N-1)/N at a node's, which its GPUs share; an all-reduce does both twice.
    """
    g, N = cluster.gpus, cluster.nodes
    once = (g - 1) / g * collective.size / cluster.inside + (N - 1) / N * collective.size / cluster.between
    return (2 * once if collective.kind == "all_reduce" else once) + collective.calls * cluster.latency


# ------------------------------------------------------------------------------------------------ a level, a schedule


@dataclass(frozen=True)
class Forecast:
    """A step of one level on one cluster; s and bytes, times None where the device's are not known."""

    level: Level
    size: int  # GPUs
    images: int  # a GPU
    sent: float  # by each GPU
    communicating: float
    computing: float | None
    alone: float | None  # the whole step on one GPU

    @property
    def seconds(self) -> float | None:
        """Of a step."""
        return None if self.computing is None else self.computing + self.communicating

    @property
    def efficiency(self) -> float | None:
        """Time on one GPU over the GPUs' time together."""
        return None if self.seconds is None else self.alone / (self.size * self.seconds)


def forecast(config: RunConfig, level: Level, cluster: Cluster, time: StepTime | None) -> Forecast | None:
    """The step of a level on a cluster; None where its batch does not divide over it."""
    batch, micro, size = level.config.batch, level.config.micro_batch, cluster.size
    if batch % size:
        return None
    images = batch // size
    parts = math.ceil(images / micro) if micro else 1
    moved = [c for player in traffic(config, level_networks(config, level), parts, size).values() for c in player]
    computing = alone = None
    if time:
        computing = time.on(images, parts, 1 / size if config.zero.stage else 1)
        alone = time.on(batch, math.ceil(batch / micro) if micro else 1, 1)
    return Forecast(level, size, images, sum(sent(c, size) for c in moved), sum(seconds(c, cluster) for c in moved), computing, alone)


def most_useful(forecasts: list[Forecast | None]) -> Forecast | None:
    """Of one level's forecasts that with the most GPUs whose efficiency is half or more."""
    useful = [f for f in forecasts if f and f.efficiency is not None and f.efficiency >= 0.5]
    return max(useful, key=lambda f: f.size, default=None)


def hours(schedule: Schedule, forecasts: list[Forecast]) -> tuple[float, float]:
    """(hours by the clock, GPU hours) of one forecast a level; raises ValueError where one has no time."""
    clock = gpus = 0.0
    for f in forecasts:
        if f.seconds is None:
            raise ValueError(f"no time of level {f.level.resolution}")
        taken = f.seconds * (schedule.steps[f.level.resolution, True] + schedule.steps[f.level.resolution, False]) / 3600
        clock, gpus = clock + taken, gpus + taken * f.size
    return clock, gpus
