"""`hires plan`."""

from rich.console import Console
from rich.table import Table

from hires.config import PlanConfig
from hires.errors import HiresError
from hires.training import game
from hires.training.plan import level_plans
from hires.training.schedule import Schedule
from pipelines import Shards


def run(config: PlanConfig) -> int:
    """Print a training schedule as a table; refuses what `hires train` would refuse, a level that the data lacks among it."""
    if config.world_size < 1:
        raise HiresError(f"world_size={config.world_size}: wanted at least 1")
    schedule = Schedule(config.schedule)
    game.check(config, schedule, config.world_size)
    if config.data.root:
        shards = Shards.open(config.data.root, config.data.remote_cache, config.data.remote_gb)
        for level in schedule.levels:
            shards.require_level(level.resolution)
    plans = level_plans(config, schedule, config.world_size)
    table = Table(title=f"{schedule.total:,} images on {config.world_size} ranks, ZeRO {config.zero.stage}, {config.train.precision}")
    for column in ("level", "images", "fade", "steps", "batch", "a rank", "lr", "κ", "γ", "G+U+I (M)"):
        table.add_column(column, justify="right")
    for column in ("weights", "gradients", "moments", "EMA", "activations"):
        table.add_column(f"{column} (MB)", justify="right")
    for plan in plans:
        level, row = plan.level, plan.level.config
        micro = f" in {row.micro_batch}s" if row.micro_batch else ""
        table.add_row(
            f"{level.resolution}x{level.resolution}",
            f"{level.start / 1000:,.0f}k–{level.end / 1000:,.0f}k",
            f"{level.fade / 1000:,.0f}k",
            f"{plan.steps:,}",
            str(row.batch),
            f"{row.batch // config.world_size}{micro}",
            f"{row.lr:g}",
            f"{config.objective.kappa(level.resolution):g}",
            f"{config.objective.gamma(level.resolution):g}",
            "+".join(f"{n / 1e6:.2f}" for n in plan.parameters.values()),
            *(f"{n / 1e6:,.1f}" for n in (plan.weights, plan.gradients, plan.moments, plan.average, plan.activations)),
        )
    console = Console()
    # a table cut at 80 columns tells nothing: where the output is no terminal, give it the width it needs
    Console(width=max(console.width, 190) if not console.is_terminal else None).print(table)
    print("bytes are a rank's; gradients, moments and EMA of all three networks; activations of the fullest moment of a step")
    return 0
