"""Before a run: a real step and a grid at every level still to come, so that a level that does not fit is known now, not in three days."""

import re
import time

import torch

from hires.errors import HiresError, NotFinite
from hires.ground.distributed import World
from hires.objectives.base import AT_ONCE
from hires.training import grids
from hires.training.feed import Feed
from hires.training.game import Game
from hires.training.guards.agreement import not_finite
from hires.training.guards.watchdog import Watchdog
from hires.training.schedule import Phase
from hires.training.settings import RunConfig

# as the CPU's allocator, cuBLAS and cuDNN, and nccl say it
OUT_OF_MEMORY = re.compile(r"allocate memory|_ALLOC_FAILED|out of memory|Failed to CUDA calloc", re.IGNORECASE)


def steps(config: RunConfig, world: World, feed: Feed, watchdog: Watchdog, images: int) -> dict[int, float]:
    """Seconds per thousand images of each level that is not over at `images`.

    Raises HiresError naming the level that does not fit in memory, or whose first step is not finite.
    """
    found = {}
    for level in feed.schedule.levels:
        if level.end > images:
            watchdog.at(f"the trial step at {level.resolution}x{level.resolution}", images, patient=True)
            found[level.resolution] = _step(config, world, feed, feed.schedule.at(level.start))  # fading where it fades: the larger network
    return found


def _step(config: RunConfig, world: World, feed: Feed, phase: Phase) -> float:
    row = f"schedule.levels.{phase.resolution}"
    where = f"level {phase.resolution}x{phase.resolution}, batch {phase.batch} over {world.size} processes"
    too_large = f"{where} does not fit in memory: lower {row}.micro_batch or {row}.batch"
    try:
        game = Game(config, world, phase.shape)
        pictures, labels = feed.of(phase), feed.labels(phase)
        if world.device.type == "cuda":  # the first round also chooses kernels and fills the allocator
            game.round(phase, pictures, labels, due=True)
            torch.cuda.synchronize(world.device)
        started = time.perf_counter()
        bad = not_finite(game.round(phase, pictures, labels, due=True) | game.norms())  # also waits for the device
        seconds = (time.perf_counter() - started) / phase.batch * 1000
        networks = game.averaged()
        if world.first:  # which alone draws grids, beside its players
            grids.pictures(game, networks, phase, pictures[:AT_ONCE], AT_ONCE)
        game.destroy()
    except NotFinite as error:
        bad, seconds = [str(error)], 0.0
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise HiresError(too_large) from error
    except RuntimeError as error:
        if not OUT_OF_MEMORY.search(str(error)):
            raise
        raise HiresError(too_large) from error
    if bad:
        raise HiresError(f"{where}: {', '.join(bad)} not finite in the first step: check the data and {row}.lr")
    return seconds
