"""The time of a round on one device: from measured times at several batches, or from counted operations and an assumed rate."""

from contextlib import nullcontext
from dataclasses import dataclass
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
import yaml

from hires.errors import HiresError
from hires.ground.machine import DTYPES
from hires.objectives.base import Rates
from hires.objectives.divergence_triangle import Objective
from hires.planning.memory import level_networks
from hires.training.schedule import Level
from hires.training.settings import RunConfig


@dataclass(frozen=True)
class StepTime:
    """t(b) = fixed + per_image b of one device, in s; of `fixed`, `optimizer` is Adam's and shrinks with its shard."""

    fixed: float
    per_image: float
    optimizer: float = 0.0

    def on(self, images: int, parts: int, shard: float) -> float:
        """Seconds that a rank computes: `images` in `parts` micro-batches, and `shard` (0 to 1) of the optimizer's step."""
        return parts * (self.fixed - self.optimizer) + self.per_image * images + shard * self.optimizer


def fit(points: list[tuple[int, float, float]]) -> StepTime:
    """StepTime from (batch, seconds, optimizer's seconds): least squares of relative errors, neither term negative."""
    from scipy.optimize import nnls

    rows = [[1 / t, batch / t] for batch, t, _ in points]
    fixed, slope = nnls(rows, [1.0] * len(rows))[0].tolist()
    return StepTime(fixed, slope, min(fixed, sum(o for _, _, o in points) / len(points)))


def read(path: str) -> tuple[str, dict[int, StepTime]]:
    """(machine, level -> StepTime) of a table that benchmarks/scaling.py writes; raises HiresError for what it cannot use.

    YAML or JSON: `machine: text` and `steps:`, rows of {level, batch, seconds, optimizer (may lack: 0)}, two batches a level or more.
    """
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        machine = str(found["machine"])
        rows = [(int(r["level"]), int(r["batch"]), float(r["seconds"]), float(r.get("optimizer", 0))) for r in found["steps"]]
    except OSError as error:
        raise HiresError(f"measured={path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        wanted = "wanted machine: and steps: rows of level, batch, seconds (see benchmarks/scaling.py)"
        raise HiresError(f"measured={path}: {type(error).__name__} {' '.join(str(error).split())}; {wanted}") from error
    times = {}
    for level in sorted({row[0] for row in rows}):
        points = [row[1:] for row in rows if row[0] == level]
        if len({batch for batch, _, _ in points}) < 2:
            raise HiresError(f"measured={path}: level {level} has one batch, wanted two or more: a smaller one's time lies on their line")
        if any(batch < 1 or not 0 < time < math.inf or not 0 <= optimizer < time for batch, time, optimizer in points):
            raise HiresError(f"measured={path}: level {level} has a batch or a time out of range")
        times[level] = fit(points)
    return machine, times


def arithmetic(config: RunConfig, levels: list[Level], tflops: float, round_ms: float) -> dict[int, StepTime]:
    """StepTimes from counted operations: an image's at `tflops` 10^12 a second, and `round_ms` for a round of no images."""
    return {level.resolution: StepTime(round_ms / 1e3, operations(config, level) / (tflops * 1e12)) for level in levels}


class _PaperPlayer:
    """A player without weights or engine."""

    def __init__(self, network: nn.Module):
        self.network = network

    def __call__(self, *args):
        return self.network(*args)

    def accumulate(self):
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, *_) -> None:
        pass


class _NoModules(nullcontext):
    parents = frozenset({"Global"})  # the counter's hooks by module are what autograd.grad refuses


def operations(config: RunConfig, level: Level) -> float:
    """Floating-point operations (two a multiply-add) of a round for one image, the penalty every r1_every-th time, counted in the code."""
    dtype = DTYPES[config.train.precision]
    r, latent = level.resolution, config.network.latent
    counts = []
    for penalise in (False, True):
        players = {name: _PaperPlayer(network.to(dtype)) for name, network in level_networks(config, level).items()}
        with torch.device("meta"):
            x = torch.empty(1, config.network.image_channels, r, r)
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = _NoModules()
        with counter:
            game = Objective(config.objective, latent, players)
            batch = game.batch(x, 0.5, lambda _, size: torch.empty(1, size, device="meta"), latent)
            game.round(batch, Rates(0.0, 0.0, 0.0), r, penalise)
        counts.append(counter.get_total_flops())
    plain, penalised = counts
    return plain + (penalised - plain) / config.objective.r1_every
