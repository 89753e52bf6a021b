"""`hires plan`."""

from dataclasses import dataclass, field, replace
import math

from rich.table import Table
import torch

from hires.errors import HiresError
from hires.ground import machine
from hires.ground.ranges import setting
from hires.ground.showing import show_table
from hires.objectives import system
from hires.planning import steptime
from hires.planning.memory import LevelPlan, level_plans
from hires.planning.scaling import Cluster, Forecast, forecast, hours, most_useful
from hires.training import game
from hires.training.schedule import Schedule
from hires.training.settings import RunConfig
from hires.verbs import Result
from pipelines import Shards

WORLDS = (1, 2, 4, 8, 16, 32, 64)


@dataclass
class Config(RunConfig):
    """hires plan: the schedule of a training configuration as a table, without training.
      hires plan experiment=celebahq_1024 world_size=32
    and how it scales over nodes of GPUs (docs/reference/planning.md):
      hires plan experiment=celebahq_1024 nodes=4 gpus_per_node=8 bandwidth=400 intra_bandwidth=450 measured=times.yaml
      … bandwidth: Gbit/s of a node; intra_bandwidth: GB/s of a GPU; measured: step times of one GPU,
      or tflops=200 round_ms=25, which are assumptions; without either, bytes and their time alone
    """

    world_size: int | None = setting(None, at_least=1)  # null: nodes * gpus_per_node, or 1
    nodes: int | None = setting(None, at_least=1)
    gpus_per_node: int | None = setting(None, at_least=1)
    # Gbit/s in and out of a node, all its network cards together, one direction
    bandwidth: float = setting(0.0, at_least=0, below=math.inf)
    intra_bandwidth: float = setting(0.0, at_least=0, below=math.inf)  # GB/s in and out of a GPU inside its node, one direction
    latency_us: float = setting(30.0, at_least=0, below=math.inf)  # microseconds a collective takes whatever its size
    measured: str = ""  # a table of step times of one device (benchmarks/scaling.py writes one), or
    tflops: float = setting(0.0, at_least=0, below=math.inf)  # 10^12 operations a second that a device is assumed to sustain (not its peak)
    # with tflops: milliseconds of a round whatever its batch (launching kernels, copies, Adam), assumed
    round_ms: float = setting(0.0, at_least=0, below=math.inf)


@dataclass(frozen=True)
class Planned(Result):
    """A schedule: its length in images, and each level with its steps, parameters and bytes a rank."""

    images: int
    levels: list[LevelPlan] = field(repr=False)


def run(config: Config) -> Planned:
    """Print a training schedule as a table; refuses what `hires train` would refuse, a level that the data lacks among it.

    With nodes or gpus_per_node it also prints how the schedule scales; there a batch that does not divide is reported, not refused.
    """
    scales = config.nodes is not None or config.gpus_per_node is not None
    world_size = _world_size(config)
    schedule = Schedule(config.schedule)
    game.check(config, schedule, 1 if scales else world_size)
    if scales and not system(config.objective).SCALING:
        raise HiresError(f"objective={config.objective.name}: scaling is modelled for divergence_triangle alone; leave nodes=… out")
    if config.data.root:
        shards = Shards.open(config.data.root, config.data.remote_cache, config.data.remote_gb)
        for level in schedule.levels:
            shards.require_level(level.resolution)
    config, whose = _settled(config)
    plans = level_plans(config, schedule, world_size)
    show_table(_levels(config, schedule, plans, world_size, whose))
    carried = "; carried: a replay buffer" if any(plan.carried for plan in plans) else ""
    print("bytes per rank; gradients: of the players that hold them at the same time; buffers: on top while they are reduced;", end=" ")
    print(f"activations: at the fullest moment of a step{carried}")
    print(f"{config.objective.name}: what each player lowers")
    for player, loss in system(config.objective).LOSSES.items():
        print(f"  {player:10} {loss}")
    if scales:
        _scaling(config, schedule)
    return Planned(schedule.total, plans)


def _settled(config: Config) -> tuple[Config, str]:
    """`config` with what train.precision=auto would become, and where: on the GPUs asked for, else on this machine."""
    if config.train.precision != "auto":
        return config, ""
    gpus = config.gpus_per_node is not None
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    precision = machine.precision_of("bf16" if gpus else "auto", device)
    whose = " as on GPUs since Ampere" if gpus else " as on this machine (train.precision=bf16 plans for newer GPUs)"
    return replace(config, train=replace(config.train, precision=precision)), whose if precision == "fp32" or gpus else ""


def _world_size(config: Config) -> int:
    """GPUs asked for; raises HiresError for a contradiction or a value that is not a number."""
    product = (config.nodes or 1) * (config.gpus_per_node or 1)
    if config.nodes is None and config.gpus_per_node is None:
        if config.measured or config.tflops or config.bandwidth or config.intra_bandwidth:
            raise HiresError("measured, tflops and bandwidths say how a schedule scales: wanted nodes=… or gpus_per_node=… beside them")
        return config.world_size or 1
    if config.world_size not in (None, product):
        raise HiresError(f"world_size={config.world_size}: wanted {product}, which is nodes * gpus_per_node, or leave it out")
    if not config.bandwidth:
        raise HiresError("bandwidth=… not given: wanted Gbit/s in and out of a node, such as bandwidth=400")
    if not config.intra_bandwidth:
        raise HiresError("intra_bandwidth=… not given: wanted GB/s in and out of a GPU inside its node, such as intra_bandwidth=450")
    if config.measured and config.tflops:
        raise HiresError(f"measured={config.measured} and tflops={config.tflops:g}: wanted one of them")
    if config.round_ms and not config.tflops:
        raise HiresError(f"round_ms={config.round_ms:g}: wanted tflops=… beside it")
    return product


def _levels(config: Config, schedule: Schedule, plans: list[LevelPlan], world_size: int, whose: str) -> Table:
    ranks = f"{world_size} ranks, ZeRO {config.zero.stage}" if world_size > 1 else "1 rank"  # that has nothing to shard
    table = Table(title=f"{schedule.total:,} images on {ranks}, {config.train.precision}{whose}")
    players = "+".join(config.objective.players())
    for column in ("level", "images", "fade", "steps", "batch", "a rank", "lr", *config.objective.weights_at(4), f"{players} (M)"):
        table.add_column(column, justify="right")
    carries = any(plan.carried for plan in plans)
    for column in ("weights", "gradients", "buffers", "moments", "EMA", "activations", *["carried"] * carries):
        table.add_column(f"{column} (MB)", justify="right")
    for plan in plans:
        level, row = plan.level, plan.level.config
        micro = f" in {row.micro_batch}s" if row.micro_batch else ""
        parts = (plan.weights, plan.gradients, plan.buffers, plan.moments, plan.average, plan.activations, plan.carried)
        table.add_row(
            f"{level.resolution}x{level.resolution}",
            f"{level.start:,}–{level.end:,}",
            f"{level.fade:,}",
            f"{plan.steps:,}",
            str(row.batch),
            f"{row.batch // world_size}{micro}" if row.batch % world_size == 0 else "refused",
            f"{row.lr:g}",
            *(f"{weight:g}" for weight in config.objective.weights_at(level.resolution).values()),
            "+".join(f"{n / 1e6:.2f}" for n in plan.parameters.values()),
            *(f"{n / 1e6:,.1f}" for n in parts[: None if carries else -1]),
        )
    return table


def _scaling(config: Config, schedule: Schedule) -> None:
    """Print a row a level for the cluster asked for, and a row a number of GPUs for the whole schedule."""
    times, source = {}, "no time of a step can be predicted: give measured=FILE, or tflops=… and round_ms=… to assume one"
    if config.measured:
        machine, times = steptime.read(config.measured)
        source = f"step times measured on one device: {machine} ({config.measured})"
    elif config.tflops:
        times = steptime.arithmetic(config, schedule.levels, config.tflops, config.round_ms)
        source = f"step times ASSUMED, not measured: counted operations at {config.tflops:g} TFLOP/s and {config.round_ms:g} ms a round"
    asked = _cluster(config, (config.nodes or 1) * (config.gpus_per_node or 1))
    sizes = sorted({*WORLDS, asked.size})
    grid = {
        level.resolution: {size: forecast(config, level, _cluster(config, size), times.get(level.resolution)) for size in sizes}
        for level in schedule.levels
    }
    show_table(_per_level(schedule, grid, asked))
    if all(level.resolution in times for level in schedule.levels):
        show_table(_per_size(schedule, grid))
        _say_most_useful(schedule, grid)
    elif times:
        print(f"no times of {', '.join(str(level.resolution) for level in schedule.levels if level.resolution not in times)}: no total")
    print(f"{source}; {config.bandwidth:g} Gbit/s a node, {config.intra_bandwidth:g} GB/s a GPU, {config.latency_us:g} µs a collective")


def _cluster(config: Config, size: int) -> Cluster:
    """`size` GPUs on as few nodes as they fit on; a number that does not fill its nodes evenly is spread as if it did."""
    gpus = math.gcd(size, config.gpus_per_node or 1) if size > (config.gpus_per_node or 1) else size
    return Cluster(size // gpus, gpus, config.bandwidth * 1e9 / 8, config.intra_bandwidth * 1e9, config.latency_us / 1e6)


def _per_level(schedule: Schedule, grid: dict[int, dict[int, Forecast | None]], asked: Cluster) -> Table:
    table = Table(title=f"a step on {asked.nodes} nodes of {asked.gpus} GPUs")
    for column in ("level", "batch", "a GPU", "sent (MB)", "moving (ms)", "computing (ms)", "step (ms)", "efficiency", "useful GPUs"):
        table.add_column(column, justify="right")
    for level in schedule.levels:
        of = grid[level.resolution]
        name, batch, found, best = f"{level.resolution}x{level.resolution}", level.config.batch, of[asked.size], most_useful([*of.values()])
        useful = str(best.size) if best else "–"
        if found is None:
            why = "under one" if batch < asked.size else "uneven"
            table.add_row(name, str(batch), why, *["–"] * 5, useful)
            continue
        known = found.seconds is not None
        cells = [f"{found.computing * 1e3:,.1f}", f"{found.seconds * 1e3:,.1f}", f"{found.efficiency:.0%}"] if known else ["?"] * 3
        table.add_row(name, str(batch), str(found.images), f"{found.sent / 1e6:,.1f}", f"{found.communicating * 1e3:,.2f}", *cells, useful)
    return table


def _per_size(schedule: Schedule, grid: dict[int, dict[int, Forecast | None]]) -> Table:
    table = Table(title="the whole schedule")
    for column in ("GPUs", "hours", "GPU hours", "efficiency", "levels under 50 %", "levels whose batch does not divide"):
        table.add_column(column, justify="right")
    alone = hours(schedule, [of[1] for of in grid.values()])[0]
    for size in next(iter(grid.values())):
        found = {r: of[size] for r, of in grid.items()}
        uneven = [str(r) for r, f in found.items() if f is None]
        slow = [str(r) for r, f in found.items() if f and f.efficiency < 0.5]
        clock, gpus = (math.nan, math.nan) if uneven else hours(schedule, list(found.values()))
        cells = ["–"] * 3 if uneven else [f"{clock:,.1f}", f"{gpus:,.1f}", f"{alone / gpus:.0%}"]
        table.add_row(str(size), *cells, ", ".join(slow) or "none", ", ".join(uneven) or "none")
    return table


def _say_most_useful(schedule: Schedule, grid: dict[int, dict[int, Forecast | None]]) -> None:
    best = [most_useful([*of.values()]) or of[1] for of in grid.values()]
    clock, gpus = hours(schedule, best)
    names = ", ".join(f"{f.level.resolution}: {f.size}" for f in best)
    print(f"GPUs that still help (efficiency at least one half, at least one image each), by level: {names};")
    print(f"with as many at each level (a run resumes on any number) the schedule takes {clock:,.1f} hours, {gpus:,.1f} GPU hours")
