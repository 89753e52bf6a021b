"""The loop. A run is a function of (configuration, images seen): a restart and a growth take the same path, through a checkpoint."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
import json
import math
from pathlib import Path
import platform
import subprocess
import time
from typing import Protocol

import numpy as np
from omegaconf import OmegaConf
from rich.table import Table
import torch
from torch import Tensor, nn
import torch.distributed as dist

from hires.checkpoints import reading
from hires.checkpoints.retention import Policy
from hires.checkpoints.writing import Saver
from hires.errors import HiresError, NotFinite
from hires.ground import distributed, machine, noise
from hires.ground.distributed import World
from hires.ground.images import save_grid
from hires.networks.growing import fade_images
from hires.objectives import system
from hires.training import game
from hires.training.continuing import changes, check_same_network
from hires.training.game import Game, Shape, rank_rows
from hires.training.guards.agreement import Health, noise_seed
from hires.training.guards.lock import owned
from hires.training.guards.stopping import StopRequest, process_seconds
from hires.training.guards.watchdog import Watchdog, parse_limit
from hires.training.monitor import Monitor, due, memory_gb
from hires.training.schedule import Phase, Schedule, parse_images
from hires.training.settings import TrainConfig, to_dict
from pipelines import Loader, Order, Shards
from pipelines.manifest import MANIFEST


class Measures(Protocol):
    """monitor.measures, taken while a run trains."""

    def take(self, networks: dict[str, nn.Module], images: int, resolution: int, alpha: float) -> tuple[dict, dict[str, float], list[str]]:
        """What was found, one number a measure (lower is better), and a line for each measure that cannot be taken here; a collective."""


MakeMeasures = Callable[[TrainConfig, Shards, World], Measures | None]  # evaluation.measuring.measures

DONE, SAVED = 0, 85  # exit codes: the schedule is finished; saved on request, run the same command again


class Trainer:
    """One run, from nothing or from its newest checkpoint to the end of its schedule or to a stop."""

    def __init__(self, config: TrainConfig, world: World, measuring: MakeMeasures | None = None, owns_process: bool = True):
        """Checks the whole configuration and the data; raises HiresError or DataError before anything is written.

        A process of its own is ended where it hangs (train.hang_timeout), and its time counts from its start (train.stop_after); a guest
        in another's, such as a notebook, leaves it alone, and counts from here. `measuring` takes monitor.measures; only settings without
        any can do without it.
        """
        self.config, self.world = config, world
        self.schedule = Schedule(config.schedule)
        game.check(config, self.schedule, world.size)
        limit = parse_images(config.train.max_images, "train.max_images") if config.train.max_images else self.schedule.total
        self.end = min(limit, self.schedule.total)
        self.every = {
            "status": parse_images(config.monitor.status_every, "monitor.status_every"),
            "snapshot": parse_images(config.monitor.snapshot_every, "monitor.snapshot_every"),
            "checkpoint": parse_images(config.train.checkpoint_every, "train.checkpoint_every"),
            "measures": parse_images(config.monitor.measures_every, "monitor.measures_every"),
        }
        keep_every = parse_images(config.train.keep_every, "train.keep_every") if config.train.keep_every else 0
        self.policy = Policy(config.train.keep, keep_every, config.train.keep_levels, config.train.keep_best)
        self.saver: Saver | None = None
        self.shards = Shards.open(config.data.root, config.data.remote_cache, config.data.remote_gb)
        for level in self.schedule.levels:
            self.shards.require_level(level.resolution)
        if self.shards.channels != config.network.image_channels:
            raise HiresError(f"network.image_channels={config.network.image_channels}: {config.data.root} has {self.shards.channels}")
        self.measures = measuring(config, self.shards, world) if measuring else None
        if not self.measures and (config.monitor.measures or config.train.keep_best):
            raise TypeError("monitor.measures and train.keep_best need `measuring`")
        self._open_loader(self.schedule.levels[0].resolution, keep=False)  # whether the loader asked for works here
        self.order = Order(self.shards.shard_sizes("train"), config.train.seed)
        self.run = Path(config.run)
        if (self.run / MANIFEST).is_file():
            raise HiresError(f"run={config.run}: holds prepared data; wanted a folder of the run's own")
        self.checkpoints = self.run / "checkpoints"
        shown = config.monitor.wandb, to_dict(config), system(config.objective).LINE, config.monitor.tensorboard
        self.monitor = Monitor(self.run, self.schedule, world.first, *shown)
        self.images = 0
        self.game: Game | None = None
        self._loader: Loader | None = None
        self._stream: Iterator[Tensor] | None = None
        self._health = Health(world, system(config.objective).TERMS)
        self.attempt = 0  # rollbacks so far: with (configuration, images) it decides the noise, and is saved
        begins = 0.0 if owns_process else process_seconds()
        self.stop = StopRequest(config.train.stop_signal, config.train.stop_after, world.first, begins)
        limit = parse_limit(config.train.hang_timeout)
        self.watchdog = Watchdog(world, limit if owns_process else 0)
        self.phase: Phase = self.schedule.at(0)  # of the last step
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    # ------------------------------------------------------------------------------------------------ the loop

    def train(self) -> int:
        """Run until the schedule ends or a stop is asked for; returns the exit code (DONE or SAVED)."""
        with ExitStack() as held:
            held.enter_context(self.stop)
            check = held.enter_context(owned(self.run, self.world.first, self.monitor.say))
            held.enter_context(self.watchdog)
            self.saver = held.enter_context(Saver(self.checkpoints, self.policy, self.monitor.say, check, self.stop.saved))
            return self._train()

    def _train(self) -> int:
        self._begin()
        while True:
            try:
                return self._loop()
            except NotFinite as error:
                broken = str(error)
            self._roll_back(broken)  # out here: the exception holds the round's graphs

    def _loop(self) -> int:
        saved = before = self.images
        fresh = True  # the first step on new engines takes longer
        while True:
            done = self.images >= self.end
            stopping = self._may_go_on()
            if due(before, self.images, self.every["status"]) or done:
                self._status()
            grows = not done and Shape.of(self.schedule.at(self.images)) != self.game.shape
            if due(before, self.images, self.every["snapshot"]) or done or grows:
                self.watchdog.at("grids", self.images, patient=True)
                self._snapshot()
            saves = (due(before, self.images, self.every["checkpoint"]) or done or stopping or grows) and saved != self.images
            measured = {}
            if not stopping and (due(before, self.images, self.every["measures"]) or (self.config.train.keep_best and saves)):
                self.watchdog.at("measures", self.images, patient=True)
                measured = self._measure()
            if saves:
                self.watchdog.at("saving", self.images, patient=True)
                self._save(measured)
                saved = self.images
                self.stop.restart_turn()
            if done:
                return self._finish(DONE, f"done: {self.images} images, in {self.run}")
            if grows and not stopping:  # building takes a while: ask before it, not two steps after it
                stopping = any(distributed.gather(self.stop.asked(building=True)))
            if stopping:
                return self._finish(SAVED, f"stopped by {self._stopped_by()}, saved; run the same command again")
            if grows:
                self.watchdog.at("growth", self.images, patient=True)
                with self.stop.building():
                    self._build()
                fresh = True
            before = self.images
            self._step(fresh)
            fresh = False

    def _step(self, fresh: bool) -> None:
        self.phase = self.schedule.at(self.images)
        self.watchdog.at("reading images", self.images, patient=fresh)
        images = next(self._stream)
        self.watchdog.at("a step", self.images, patient=fresh)
        try:
            measures = self.game.round(self.phase, images)
        except NotFinite as error:
            raise NotFinite(f"at {self.images} images: {self._health.told(error)}") from error
        self._health.record(measures, self.stop.asked(fresh=fresh), self.images)
        self.images += self.phase.batch
        for name, value in measures.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def _may_go_on(self, newest: bool = False) -> bool:
        """Whether a stop was asked for, agreed by all ranks; raises NotFinite where a measure, or with `newest` the state, is none."""
        asked = self._health.look(newest)
        if newest:
            self._health.check_state(self.game.players, self.images)
        return asked

    def _stopped_by(self) -> str:
        found = [(reason, rank) for rank, reason in enumerate(distributed.gather(self.stop.received)) if reason]
        return found[0][0] + (f" (rank {found[0][1]})" if found[0][1] else "")

    def _roll_back(self, broken: str) -> None:
        """Go on from the newest checkpoint with other noise, as a resume would; raises HiresError where it is not to, or not once more."""
        config = self.config.train
        what = f"not a number {broken}, level {self.game.shape.resolution}"
        self.watchdog.at("rolling back", self.images, patient=True)
        self.saver.join()
        if config.on_nonfinite == "stop" or self.attempt >= config.rollbacks:
            last = reading.complete(self.checkpoints)
            tried = f"; {self.attempt} rollbacks did not help" if self.attempt else ""
            raise HiresError(f"{what}{tried}; last good checkpoint: {last[-1] if last else 'none'}; see docs/troubleshooting.md")
        self.attempt += 1
        self.game.destroy()
        self.game = None
        self._stream.close()
        self._health, self._sums, self._counts = Health(self.world, system(self.config.objective).TERMS), {}, {}
        checkpoint, self.images = self._newest()
        self.phase = self.schedule.at(max(0, min(self.images, self.schedule.total) - 1))
        self._build(checkpoint)
        where = f"back to {checkpoint.path if checkpoint else 'the beginning'}"
        self.monitor.say(f"{what}; {where} with other noise, rollback {self.attempt} of {config.rollbacks}")
        self.monitor.resume(self.images)
        self.monitor.mark({"images": self.images, "rollback": self.attempt, "why": what})

    # ------------------------------------------------------------------------------------------------ beginning and growing

    def _newest(self) -> tuple[reading.Checkpoint | None, int]:
        """What to go on from and the images seen: the run's newest checkpoint; at its beginning that of `train.start_from`, or nothing."""
        self.saver.join()
        checkpoint, place = reading.from_first_rank(self.checkpoints, self.monitor.say), self.config.train.start_from
        if checkpoint:
            check_same_network(self.config, checkpoint)
            if told := changes(self.config, checkpoint):
                self.monitor.say(f"other settings than at {checkpoint.path.name}: {told}")
            return checkpoint, checkpoint.images
        if not place:
            return None, 0
        start = reading.of_another_run(place, self.config.schedule.growth_moments == "keep", self.monitor.say)
        check_same_network(self.config, start)
        there, first = start.manifest["resolution"], self.schedule.levels[0].resolution
        if there > first:
            raise HiresError(f"{start.path} is of {there}x{there}, the schedule begins at {first}x{first}: wanted the same or a lower one")
        return start, 0

    def _begin(self) -> None:
        checkpoint, self.images = self._newest()
        self.phase = self.schedule.at(max(0, min(self.images, self.schedule.total) - 1))
        if self.world.first and self.config.train.precision == "bf16" and not machine.has_fast_bf16(self.world.device):
            factor = machine.bf16_slowdown(self.world.device)
            self.monitor.say(f"train.precision=bf16: this machine computes it {factor:.1f} times as slowly as fp32 (measured just now)")
        if self.config.train.max_images and parse_images(self.config.train.max_images) > self.schedule.total:
            self.monitor.say(f"train.max_images={self.config.train.max_images}: the schedule ends before, at {self.schedule.total} images")
        if self.images >= self.end:
            self.monitor.say(f"{self.run} already has {self.images} of {self.end} images")
        if self.config.train.preflight and self.images < self.end:
            self.monitor.step_seconds = game.preflight(self.config, self.world, self.schedule, self._load_phase, self.images)
        if self.world.first:
            self.run.mkdir(parents=True, exist_ok=True)
            (self.run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(self.config)), encoding="utf-8")
            (self.run / "environment.json").write_text(json.dumps(environment(self.world), indent=1), encoding="utf-8")
        self._build(checkpoint)
        self.monitor.table(self._overview())
        if checkpoint:
            ours, place = checkpoint.path.parent == self.checkpoints, self.config.train.start_from
            self.monitor.say(f"{'resuming' if ours else 'starting'} from {checkpoint.path}")
            if ours and checkpoint.manifest.get("data", self.shards.identity) != self.shards.identity:
                self.monitor.say(f"{self.config.data.root}: other shards than this run has seen so far: from here on it goes through these")
            if ours and place:
                self.monitor.say(f"train.start_from={place} is not read again: this run has checkpoints of its own")
        self.monitor.resume(self.images)
        self.monitor.mark({"images": self.images, "start": round(time.time()), "processes": self.world.size})

    def _build(self, checkpoint: reading.Checkpoint | None = None) -> None:
        """(Re)build the players for the phase ahead, out of the checkpoint just written: growth and resuming are one thing."""
        images = min(self.images, self.schedule.total - 1)
        shape = Shape.of(self.schedule.at(images))
        if self.game:
            self.saver.join()
            checkpoint = reading.Checkpoint(self.checkpoints / reading.folder_name(self.images))
            self.monitor.say(f"now {shape.resolution}x{shape.resolution}, {'fading in' if shape.fading else 'stable'}")
            self.game.destroy()
        self.game = Game(self.config, self.world, shape, checkpoint)
        if checkpoint and checkpoint.path.parent == self.checkpoints:
            self.attempt = max(self.attempt, checkpoint.manifest.get("attempt", 0))
        # the game draws by its own copy's seed; weights of a fresh level keep the run's
        self.game.config = replace(self.config, train=replace(self.config.train, seed=noise_seed(self.config.train.seed, self.attempt)))
        if self._loader is None or self._loader.resolution != shape.resolution:
            self._loader = self._open_loader(shape.resolution)
        self.shards.prefetch(shape.resolution, self.order.shards_from(self.images))
        self._stream = self._loader.stream(self._plan(self.images, shape))
        self.monitor.restart_clock(self.images)

    def _plan(self, images: int, shape: Shape) -> Iterator[np.ndarray]:
        """This rank's indices for each step from `images` to the end of the shape's phase."""
        while images < self.end and Shape.of(self.schedule.at(images)) == shape:
            batch = self.schedule.at(images).batch
            yield self.order.indices(images, batch)[rank_rows(batch, self.world)]
            images += batch

    def _open_loader(self, resolution: int, split: str = "train", keep: bool = True) -> Loader:
        data = self.config.data
        return Loader(self.shards, resolution, split, data.cache_gb if keep else 0.0, data.workers, data.loader)

    def _load_phase(self, phase) -> Tensor:
        self.watchdog.at(f"preflight at {phase.resolution}x{phase.resolution}", self.images, patient=True)
        indices = self.order.indices(phase.images, phase.batch)[rank_rows(phase.batch, self.world)]
        return self._open_loader(phase.resolution, keep=False).read(indices)

    # ------------------------------------------------------------------------------------------------ saving and showing

    def _measure(self) -> dict[str, float]:
        """Take monitor.measures of the averaged networks; one number a measure, empty while a level fades in: no two of those compare."""
        if not self.measures:
            return {}
        fading = self.game.shape.fading
        place = self.images, self.game.shape.resolution
        found, lower, problems = self.measures.take(self.game.averaged(), *place, self.phase.alpha if fading else 1.0)
        for line in problems:
            self.monitor.say(line)
        self.monitor.measures(*place, found, lower)
        self.monitor.restart_clock(self.images)
        return {} if fading else lower

    def _save(self, measured: dict[str, float]) -> None:
        self._may_go_on(newest=True)  # never save what is not finite
        info = {
            "resolution": self.game.shape.resolution,
            "fading": self.game.shape.fading,
            "alpha": self.phase.alpha,
            "zero_stage": self.config.zero.stage,
            "attempt": self.attempt,
            "measured": measured,
            "data": self.shards.identity,
            "time": time.time(),
            "config": to_dict(self.config),
        }
        self.saver.save(self.game.players, self.images, info, self.game.objective.carried())
        self.monitor.restart_clock(self.images)

    def _status(self) -> None:
        self.saver.poll()
        if not self._sums:
            return
        names = sorted(self._sums)
        means = torch.stack([self._sums[n] / self._counts[n] for n in names])
        if self.world.size > 1:
            dist.all_reduce(means)
            means /= self.world.size
        values = {name: value for name, value in zip(names, means.tolist(), strict=True) if math.isfinite(value)}  # JSON has no others
        self.monitor.status(self.phase, self.images, self.end, values, memory_gb(self.world.device))
        self._sums, self._counts = {}, {}

    @torch.no_grad()
    def _snapshot(self) -> None:
        """Grids of what the system shows of fixed latents and fixed held-out pictures, by the moving averages, and of those pictures."""
        networks = self.game.averaged()
        if self.world.first:
            alpha = self.phase.alpha if self.game.shape.fading else 1.0
            count, size, device = self.config.monitor.samples, self.game.shape.resolution, self.world.device
            z = noise.normal(self.config.train.seed, "grid", 0, count, self.config.network.latent, slice(None)).to(device)
            split = "holdout" if self.shards.count("holdout") else "train"
            n = min(count // 2, self.shards.count(split))
            pick = torch.randperm(self.shards.count(split), generator=noise.generator(self.config.train.seed, "grid pictures"))[:n]
            x = fade_images(self._open_loader(size, split, keep=False).read(pick.numpy()).to(device).float() / 127.5 - 1, alpha)
            folder = self.run / "samples"
            folder.mkdir(exist_ok=True)
            for name, (images, columns) in self.game.objective.pictures(networks, x, z, alpha).items():
                path = folder / f"{name}-{self.images:012d}-{size}x{size}.png"
                save_grid(images, path, columns)
                self.monitor.grid(name, path, self.images)
            save_grid(x, folder / f"reals-{size}x{size}.png")
        self.monitor.restart_clock(self.images)

    def _overview(self) -> Table:
        """The table at the start: what will run, on what, and how it is sharded."""
        processes = f"{self.world.size} process{'es' if self.world.size > 1 else ''}"
        table = Table(title=f"{self.run}: {processes}, ZeRO {self.config.zero.stage}, {self.config.train.precision}")
        objective = self.config.objective
        for column in ("level", "images", "fade", "batch", "lr", *objective.weights_at(4)):
            table.add_column(column, justify="right")
        for level in self.schedule.levels:
            r, row = level.resolution, level.config
            images = f"{level.start:,}–{level.end:,}"
            weights = (f"{weight:g}" for weight in objective.weights_at(r).values())
            table.add_row(f"{r}x{r}", images, f"{level.fade:,}", str(row.batch), f"{row.lr:g}", *weights)
        parts = []
        for name, p in self.game.players.items():
            size = sum(shape.numel() for shape in p.shapes.values())
            parts.append(f"{name}: {size / 1e6:.2f} M parameters, {p.optimizer_bytes() / 1e6:.1f} MB of moments a rank")
        counts = ", ".join(f"{self.shards.count(s):,} {s}" for s in ("train", "holdout"))
        table.caption = "\n".join([*parts, f"{self.config.data.root}: {counts}, {len(self.shards.shard_sizes('train'))} shards a level"])
        return table

    def _finish(self, code: int, text: str) -> int:
        self.saver.join()
        self.monitor.say(text)
        self.watchdog.at("the end", self.images, patient=True)
        self.monitor.close()
        if code == DONE:
            distributed.from_first(None)  # wandb may take minutes, and srun ends what is left a minute after the first process
        self.game.destroy()
        return code


def environment(world: World) -> dict:
    """Versions, machine and commit, for the run folder."""
    import deepspeed

    try:
        ask = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        commit = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # images without git
        commit = ""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepspeed": deepspeed.__version__,
        "commit": commit or "unknown",
        "host": platform.node(),
        "world_size": world.size,
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else platform.processor() or platform.machine(),
    }
