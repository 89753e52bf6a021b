"""The loop. A run is a function of (configuration, images seen): a restart and a growth take the same path, through a checkpoint."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
import time

from torch import nn

from hires.checkpoints import reading
from hires.checkpoints.writing import Saver
from hires.errors import HiresError, NotFinite
from hires.ground import distributed, noise
from hires.ground.distributed import World
from hires.objectives import system
from hires.training import beginning, game, grids, trial
from hires.training.continuing import origin
from hires.training.feed import Feed
from hires.training.game import Game
from hires.training.guards.agreement import Health
from hires.training.guards.lock import owned
from hires.training.guards.stopping import StopRequest, process_seconds
from hires.training.guards.watchdog import Watchdog, parse_limit
from hires.training.monitor import Means, Monitor, due, memory_gb
from hires.training.schedule import Schedule
from hires.training.settings import RunConfig, to_dict
from pipelines import Shards

# measuring(config, shards, world, say) -> take(networks, images, resolution, alpha), a collective -> what monitor.measures found, and one
# number a measure, lower is better; evaluation.measuring.measures is one
Take = Callable[[dict[str, nn.Module], int, int, float], tuple[dict, dict[str, float]]]
Measuring = Callable[[RunConfig, Shards, World, Callable[[str], None]], Take | None]

DONE, SAVED = 0, 85  # exit codes: the schedule is finished; saved on request, run the same command again


class Trainer:
    """One run, from nothing or from its newest checkpoint to the end of its schedule or to a stop."""

    def __init__(self, config: RunConfig, world: World, measuring: Measuring | None = None, owns_process: bool = True):
        """Checks the whole configuration and the data; raises HiresError or DataError before anything is written.

        `measuring` makes monitor.measures; without it there may be none. A process of its own is ended where it hangs
        (train.hang_timeout), and its time counts from its start (train.stop_after); a guest in another's, such as a notebook, leaves it
        alone, and counts from here.
        """
        self.config, self.world, self.run = config, world, Path(config.run)
        self.checkpoints = self.run / "checkpoints"
        self.schedule = Schedule(config.schedule)
        game.check(config, self.schedule, world.size)
        self.end = self.schedule.end(config.train.max_images)
        self.every, self.policy = config.every(), config.train.policy()
        self.feed = Feed(config, self.schedule, world, self.end)
        shown = config.monitor.wandb, to_dict(config), system(config.objective).LINE, config.monitor.tensorboard
        self.monitor = Monitor(self.run, self.schedule, world.first, *shown)
        self.take = measuring(config, self.feed.shards, world, self.monitor.say) if measuring else None
        if not self.take and (config.monitor.measures or config.train.keep_best):
            raise TypeError("monitor.measures and train.keep_best need `measuring`")
        limit, begins = parse_limit(config.train.hang_timeout), 0.0 if owns_process else process_seconds()
        self.stop = StopRequest(config.train.stop_signal, config.train.stop_after, world.first, begins)
        self.watchdog = Watchdog(world, limit if owns_process else 0)
        self.images = 0
        self.attempt = 0  # rollbacks so far: with (configuration, images) it decides the noise, and is saved
        self.phase = self.schedule.at(0)  # of the last step

    def train(self) -> int:
        """Run until the schedule ends or a stop is asked for; returns the exit code (DONE or SAVED)."""
        with ExitStack() as held:
            held.enter_context(self.stop)
            check = held.enter_context(owned(self.run, self.world.first, self.monitor.say))
            held.enter_context(self.watchdog)
            self.saver = held.enter_context(Saver(self.checkpoints, self.policy, self.monitor.say, check, self.stop.saved))
            self._begin()
            while True:
                try:
                    return self._loop()
                except NotFinite as error:
                    broken = str(error)
                self._roll_back(broken)  # out here: the exception holds the round's graphs

    # ------------------------------------------------------------------------------------------------ the loop

    def _loop(self) -> int:
        saved = before = self.images
        fresh = True  # the first step on new engines takes longer
        while True:
            done, stopping = self.images >= self.end, self.health.look()
            grows = not done and self.schedule.at(self.images).shape != self.game.shape
            passed = {what for what, every in self.every.items() if due(before, self.images, every)}
            if "status" in passed or done:
                self._status()
            if "snapshot" in passed or done or grows:
                self._snapshot()
            saves = ("checkpoint" in passed or done or stopping or grows) and saved != self.images
            measures = not stopping and ("measures" in passed or (self.config.train.keep_best and saves))
            measured = self._measure() if measures else {}
            if saves:
                self._save(measured)
                saved = self.images
            if done:
                return self._finish(DONE, f"done: {self.images} images, in {self.run}")
            if grows and not stopping:  # building takes a while: ask before it, not two steps after it
                stopping = any(distributed.gather(self.stop.asked(building=True)))
            if stopping:
                return self._finish(SAVED, f"stopped by {self.stop.agreed_reason()}, saved; run the same command again")
            if grows:
                self._grow()
                fresh = True
            before = self.images
            self._step(fresh)
            fresh = False

    def _step(self, fresh: bool) -> None:
        self.phase = self.schedule.at(self.images)
        self.watchdog.at("reading images", self.images, patient=fresh)
        images = next(self.batches)
        self.watchdog.at("a step", self.images, patient=fresh)
        try:
            terms = self.game.round(self.phase, images, self.feed.labels(self.phase))
        except NotFinite as error:
            raise NotFinite(f"at {self.images} images: {self.health.told(error)}") from error
        self.health.record(terms, self.game.norms(), self.stop.asked(fresh=fresh), self.images)
        self.images += self.phase.batch
        self.means.add(terms)

    @contextmanager
    def _aside(self, what: str) -> Iterator[None]:
        """What is done beside the steps: it may take a while, and is left out of their time."""
        self.watchdog.at(what, self.images, patient=True)
        yield
        self.monitor.restart_clock(self.images)

    # ------------------------------------------------------------------------------------------------ beginning, growing, going back

    def _begin(self) -> None:
        checkpoint, self.images, self.attempt = origin(self.config, self.checkpoints, self.monitor.say)
        for remark in beginning.remarks(self.config, self.world, self.feed, checkpoint):
            self.monitor.say(remark)
        if self.config.train.trial and self.images < self.end:
            self.monitor.step_seconds = trial.steps(self.config, self.world, self.feed, self.watchdog, self.images)
        beginning.write(self.config, self.world)
        self._build(checkpoint)
        self.monitor.table(beginning.overview(self.config, self.world, self.feed, self.game.players))
        self.monitor.resume(self.images)
        self.monitor.mark({"images": self.images, "start": round(time.time()), "processes": self.world.size})

    def _build(self, checkpoint: reading.Checkpoint | None) -> None:
        """The players for the step ahead, out of a checkpoint: growing, resuming and rolling back are one thing."""
        self.phase = self.schedule.behind(self.images)
        seed = noise.seed_after(self.config.train.seed, self.attempt)  # of the noise alone: weights of a fresh level keep the run's
        self.game = Game(self.config, self.world, self.schedule.ahead(self.images).shape, checkpoint, seed)
        self.health, self.means = Health(self.world, self.game.objective.TERMS), Means()
        self.batches = self.feed.batches(self.images)

    def _grow(self) -> None:
        """Into the next shape, out of the checkpoint just written."""
        with self._aside("growth"), self.stop.building():
            self.saver.join()
            shape = self.schedule.at(self.images).shape
            self.monitor.say(f"now {shape.resolution}x{shape.resolution}, {'fading in' if shape.fading else 'stable'}")
            self.game.destroy()
            self._build(reading.Checkpoint(self.checkpoints / reading.folder_name(self.images)))

    def _roll_back(self, broken: str) -> None:
        """Go on from the newest checkpoint with other noise, as a resume would; raises HiresError where it is not to, or not once more."""
        config = self.config.train
        what = f"not finite {broken}, level {self.game.shape.resolution}"
        self.watchdog.at("rolling back", self.images, patient=True)
        self.saver.join()
        if config.on_nonfinite == "stop" or self.attempt >= config.rollbacks:
            last = reading.complete(self.checkpoints)
            tried = f"; {self.attempt} rollbacks did not help" if self.attempt else ""
            raise HiresError(f"{what}{tried}; last good checkpoint: {last[-1] if last else 'none'}; see docs/reference/errors.md")
        self.attempt += 1
        self.game.destroy()
        self.batches.close()
        checkpoint, self.images, _ = origin(self.config, self.checkpoints, self.monitor.say)
        self._build(checkpoint)
        where = f"back to {checkpoint.path if checkpoint else 'the beginning'}"
        self.monitor.say(f"{what}; {where} with other noise, rollback {self.attempt} of {config.rollbacks}")
        self.monitor.resume(self.images)
        self.monitor.mark({"images": self.images, "rollback": self.attempt, "why": what})

    # ------------------------------------------------------------------------------------------------ showing, measuring, saving

    def _status(self) -> None:
        self.saver.poll()
        if means := self.means.take(self.world):
            self.monitor.status(self.phase, self.images, self.end, means, memory_gb(self.world.device))

    def _snapshot(self) -> None:
        with self._aside("grids"):
            grids.show(self.game, self.feed, self.phase, self.images, self.monitor)

    def _measure(self) -> dict[str, float]:
        """Take monitor.measures of the averaged networks; one number a measure, empty while a level fades in: no two of those compare."""
        with self._aside("measures"):
            shape = self.game.shape
            found, lower = self.take(self.game.averaged(), self.images, shape.resolution, self.phase.alpha if shape.fading else 1.0)
            self.monitor.measures(self.images, shape.resolution, found, lower)
        return {} if shape.fading else lower

    def _save(self, measured: dict[str, float]) -> None:
        with self._aside("saving"):
            self.health.look(newest=True)  # never save what is not finite
            self.health.check_state(self.game.players, self.images)
            info = {
                **asdict(self.game.shape), "alpha": self.phase.alpha, "zero_stage": self.config.zero.stage, "attempt": self.attempt,
                "measured": measured, "data": self.feed.shards.identity, "time": time.time(), "config": to_dict(self.config),
            }  # fmt: skip
            self.game.settle()
            self.saver.save(self.game.players, self.images, info, self.game.objective.carried())
        self.stop.restart_turn()

    def _finish(self, code: int, text: str) -> int:
        self.saver.join()
        self.monitor.say(text)
        self.watchdog.at("the end", self.images, patient=True)
        self.monitor.close()
        if code == DONE:
            distributed.from_first(None)  # wandb may take minutes, and srun ends what is left a minute after the first process
        self.game.destroy()
        return code
