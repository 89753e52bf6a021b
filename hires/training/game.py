"""The players of a run at one level, and one round of their game: what the trainer, its trial steps and the plan share."""

from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hires import networks, objectives
from hires.checkpoints import reading
from hires.errors import HiresError
from hires.ground import distributed, machine, noise
from hires.ground.distributed import World
from hires.ground.ranges import check_ranges
from hires.networks import batch_norm
from hires.objectives import system
from hires.objectives.base import Rates
from hires.training.player import Player, ZeroConfig, collect, new_player
from hires.training.schedule import Phase, Schedule, Shape
from hires.training.settings import RunConfig


def check(config: RunConfig, schedule: Schedule, world_size: int) -> None:
    """Raise HiresError for the first thing in a configuration that cannot train in a world of `world_size`."""
    check_ranges(config)
    schedule.check_world(world_size)
    objectives.check(config.objective, config.network, config.zero.stage)
    _check_rows(config, schedule, world_size)
    if config.optimizer.name == "adadelta" and config.zero.stage and world_size > 1:
        found = f"optimizer.name=adadelta with zero.stage={config.zero.stage} on {world_size} processes"
        raise HiresError(f"{found}: its state is not sharded; wanted zero=stage0")
    _check_decayed(config)
    _check_fixed(config, schedule)


def _check_decayed(config: RunConfig) -> None:
    """Raise HiresError for a weight decay of a player that is not in the game."""
    players = config.objective.players()
    for name, value in asdict(config.optimizer.weight_decay).items():
        if value and name not in players:
            raise HiresError(f"optimizer.weight_decay.{name}={value}: objective={config.objective.name} has {', '.join(players)}")


def _check_fixed(config: RunConfig, schedule: Schedule) -> None:
    """Raise HiresError for a schedule that the networks of a fixed size do not fit."""
    kind, levels = config.network.kind, [level.resolution for level in schedule.levels]
    if (norm := config.network.energy_norm) != "published":
        if kind not in ("dcgan32", "dcgan64"):
            raise HiresError(f"network.energy_norm={norm} with network.kind={kind}: wanted network=dcgan32 or dcgan64")
        if "energy" not in (players := config.objective.players()):
            raise HiresError(f"network.energy_norm={norm}: objective={config.objective.name} has {', '.join(players)}")
    if kind == "growing":
        if config.network.width != 1:
            raise HiresError(f"network.width={config.network.width}: growing networks take channels_base and channels_max; wanted 1")
        if any(r & (r - 1) for r in levels):
            raise HiresError(f"schedule.levels.{levels[0]}: growing networks are of powers of two; wanted 32, or network=p3_mnist at 28")
        return
    sizes = networks.FIXED[kind].RESOLUTIONS
    if len(levels) > 1 or levels[0] not in sizes:
        raise HiresError(f"network={kind}: wanted a schedule of {' or '.join(map(str, sizes))} alone, found {levels}")
    if kind == "p4" and config.zero.stage == 3:
        raise HiresError("network=p4 with zero.stage=3: spectral normalisation needs whole weights; set zero.stage=2")
    micro, place = schedule.levels[0].config.micro_batch, f"schedule.levels.{levels[0]}.micro_batch"
    if micro and kind != "p4":  # it has no batch norm, and seconds of spectral norms
        with torch.device("meta"):
            made = {name: empty_network(config, name, levels[0], False) for name in config.objective.players()}
        if normed := [name for name, network in made.items() if batch_norm.layers(network)]:
            batch_norms = f"the batch norm of network={kind}'s {normed[0]}"
            raise HiresError(f"{place}={micro}: {batch_norms} would take its statistics over a micro-batch; wanted 0")


def settle_precision(config: RunConfig, world: World) -> RunConfig:
    """`config` with what train.precision=auto means for this run; a collective.

    A run keeps the precision of its newest checkpoint on whatever machine it is resumed. A new one takes bf16 where every rank's device
    computes it fast, else fp32.
    """
    if config.train.precision != "auto":
        return config
    here = distributed.gather(machine.precision_of("auto", world.device))
    precision = distributed.from_first(_precision_before(config)) or ("bf16" if set(here) == {"bf16"} else "fp32")
    return replace(config, train=replace(config.train, precision=precision))


def _precision_before(config: RunConfig) -> str:
    """The precision of a run's newest checkpoint, empty where there is none that can be read."""
    for path in reversed(reading.complete(Path(config.run) / "checkpoints")):
        with suppress(HiresError):
            return reading.read_manifest(path)["config"]["train"]["precision"]
    return ""


def _check_rows(config: RunConfig, schedule: Schedule, world_size: int) -> None:
    """Raise HiresError where a system that takes images in groups (vcd: pairs) would have to cut one."""
    rows = system(config.objective).ROWS
    for level in schedule.levels:
        for name, size in (("batch", level.config.batch // world_size), ("micro_batch", level.config.micro_batch)):
            if size % rows:
                key = f"schedule.levels.{level.resolution}.{name}={getattr(level.config, name)}"
                raise HiresError(
                    f"{key}: objective={config.objective.name} takes a process's images {rows} at a time ({world_size} processes)"
                )


def empty_network(config: RunConfig, name: str, resolution: int, fading: bool) -> nn.Module:
    """A player's network, its parameters not yet set."""
    return system(config.objective).network(config.objective, config.network, name, resolution, fading)


def build_network(config: RunConfig, name: str, resolution: int, fading: bool) -> nn.Module:
    """A network with its starting weights: a function of (seed, player, parameter name)."""
    network = empty_network(config, name, resolution, fading)
    networks.initialise(network, lambda parameter: noise.generator(config.train.seed, f"{name}/{parameter}"))
    return network


class Game:
    """The players at one shape, from scratch or out of a checkpoint."""

    def __init__(
        self, config: RunConfig, world: World, shape: Shape, checkpoint: reading.Checkpoint | None = None, noise_seed: int | None = None
    ):
        """`noise_seed`: of latents, posterior noise and flips, by default the run's. Raises HiresError for another network's checkpoint."""
        self.config, self.world, self.shape = config, world, shape
        self.noise_seed = config.train.seed if noise_seed is None else noise_seed
        machine.use_threads(config.train.threads, shape.resolution)
        machine.repeatable(config.train.deterministic)
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(world.device)  # a level's own, not the trial steps' of the largest
        self.players: dict[str, Player] = {}
        for name in config.objective.players():
            network = build_network(config, name, shape.resolution, shape.fading)
            grows = checkpoint is not None and checkpoint.manifest["resolution"] != shape.resolution
            if checkpoint:
                checkpoint.load_network(network, name, grown=grows)
            # with one process there is nothing to shard, and DeepSpeed's copies and reductions would cost for nothing
            zero = config.zero if world.size > 1 else ZeroConfig(0)
            one = new_player(name, network, config.optimizer, zero, config.train.precision, world.device)
            if checkpoint:
                checkpoint.load_optimizer(one, moments=not grows or config.schedule.growth_moments == "keep")
            self.players[name] = one
        self.objective = system(config.objective)(config.objective, config.network.latent, self.players)
        self._seen: Tensor | None = None  # the last round's pictures
        if checkpoint:
            self.objective.restore(checkpoint)

    def round(self, phase: Phase, images: Tensor, labels: Tensor | None = None, due: bool | None = None) -> dict[str, Tensor]:
        """One step on this rank's uint8 images (B, C, r, r), as the feed orders them, and their labels (B,) where networks read them;
        returns the round's terms on the device.
        """
        config, device = self.config, self.world.device
        B, rows = phase.batch, self.world.rows(phase.batch)
        # the loaders deliver memory in the order of pixels; this puts it into that of planes, on the device
        x = images.to(device, non_blocking=True).to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1
        if config.data.mirror:
            flip = _sent(noise.mirror(self.noise_seed, phase.images, B, rows), device)
            x = torch.where(flip[:, None, None, None], x.flip(3), x)
        x = self._seen = networks.growing.fade_images(x, phase.alpha)

        def draw(stream: str, size: int) -> Tensor:
            chains = config.objective.chains  # of Langevin: noise as large as the images, for each step
            if stream in self.objective.LARGE or (chains and chains.drawn == "sample"):
                return noise.by_sample(self.noise_seed, stream, phase.images, size, rows, device)
            return _sent(noise.normal(self.noise_seed, stream, phase.images, B, size, rows), device)

        given = {} if labels is None else {"labels": _sent(labels, device)}
        batch = self.objective.batch(x, phase.alpha, draw, config.network.latent, **given)
        decay = 0.5 ** (phase.batch / phase.ema_halflife)
        rounds = (phase.images - phase.level_start) // phase.batch
        if due is None:
            due = rounds % self.objective.every == 0
        with batch_norm.over_ranks((one.network for one in self.players.values()), self.world.size):
            return self.objective.round(batch, Rates(phase.lr, phase.energy_lr, decay, rounds), phase.resolution, due, phase.micro_batch)

    def norms(self) -> dict[str, Tensor]:
        """The norms of the gradients since this was last asked, on the device, of the players whose steps do not refuse themselves."""
        found = {f"the {name}'s gradient": one.norm() for name, one in self.players.items()}
        return {name: norm for name, norm in found.items() if norm is not None}

    def averaged(self) -> dict[str, nn.Module]:
        """The networks with their moving averages as weights, fp32, eval, whole on every rank; a collective."""
        self.settle()
        return {name: self._average(name) for name in self.players}

    def settle(self) -> None:
        """Set the statistics of batch norm, which training itself never reads, to those of the averaged weights, for whoever uses them.

        A generator's are of latents of the prior, the others' of the last round's pictures; before a first round those stay as they are.
        """
        takes = system(self.config.objective).TAKES
        for name, one in self.players.items():
            if not batch_norm.layers(one.network):
                continue
            inputs = batch_norm.prior(self.config.network.latent).to(self.world.device) if takes[name] == "z" else self._seen
            if inputs is not None:
                average = self._average(name)
                with batch_norm.over_ranks([average], self.world.size):
                    batch_norm.measure(average, inputs)
                one.network.load_state_dict(dict(average.named_buffers()), strict=False)

    def _average(self, name: str) -> nn.Module:
        network = empty_network(self.config, name, self.shape.resolution, self.shape.fading)
        network.load_state_dict(self.players[name].gather("ema"))
        return network.to(self.world.device).eval().requires_grad_(False)

    def destroy(self) -> None:
        """Free the engines."""
        for one in self.players.values():
            one.destroy()
        self.players, self.objective, self._seen = {}, None, None
        collect()


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on its way to `device`; from memory that is not pinned the copy would make the host wait."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
