"""Measures while training: the light ones, of the averaged networks."""

from collections.abc import Callable

from torch import nn

from hires import evaluation
from hires.errors import HiresError
from hires.evaluation import subject
from hires.evaluation.material import Material
from hires.ground.distributed import World
from hires.training import game
from hires.training.schedule import Schedule, parse_images
from hires.training.settings import RunConfig
from hires.training.trainer import Take
from pipelines import Shards


def measures(config: RunConfig, shards: Shards, world: World, say: Callable[[str], None]) -> Take | None:
    """What a Trainer takes as `measuring`: None where no measures are asked for."""
    return Measuring(config, shards, world, say).take if config.monitor.measures or config.train.keep_best else None


class Measuring:
    """`monitor.measures` of one run."""

    def __init__(self, config: RunConfig, shards: Shards, world: World, say: Callable[[str], None]):
        """`say` prints a line on rank 0.

        Raises HiresError for a measure that is unknown, cannot run while training, or needs what the system or the data lack.
        """
        monitor, best = config.monitor, config.train.keep_best
        if best and not monitor.measures:
            raise HiresError(f"train.keep_best={best}: wanted monitor.measures={best} beside it")
        self.names = evaluation.names_of(monitor.measures, "monitor.measures")
        self._config, self._shards, self._world, self._say = config, shards, world, say
        self._told: set[tuple[str, int]] = set()  # measures that could not be taken, by level: once is enough
        if best and best not in self.names:
            raise HiresError(f"train.keep_best={best}: wanted one of monitor.measures={monitor.measures}")
        if not parse_images(monitor.measures_every, "monitor.measures_every") and not best:
            raise HiresError(f"monitor.measures_every={monitor.measures_every}: monitor.measures={monitor.measures} would never be taken")
        for name in self.names:
            if not hasattr(evaluation.MEASURES[name], "lower"):
                able = ", ".join(other for other, module in evaluation.MEASURES.items() if hasattr(module, "lower"))
                raise HiresError(f"monitor.measures={name}: too slow to take while training; wanted some of {able}")
        first = Schedule(config.schedule).levels[0].resolution
        networks = {name: game.empty_network(config, name, first, False) for name in config.objective.players()}
        of = self._subject(networks, 0, first, 1.0)
        self._settings = evaluation.Settings(images=monitor.measures_images, probe=evaluation.ProbeConfig(controls=False))
        evaluation.check(self.names, of, self._settings, "monitor.measures")
        if monitor.measures_images < 2 or shards.count("holdout") < 2:
            found = f"monitor.measures_images={monitor.measures_images}, {shards.count('holdout')} held-out pictures in {shards.root}"
            raise HiresError(f"monitor.measures={monitor.measures}: {found}; wanted at least 2 of each")

    def take(self, networks: dict[str, nn.Module], images: int, resolution: int, alpha: float) -> tuple[dict, dict[str, float]]:
        """What was found, and one number a measure (lower is better); says which cannot be taken at this level.

        A collective. The same pictures and latents each time, so that numbers of one level differ by the networks alone.
        """
        material = Material(self._subject(networks, images, resolution, alpha), self._shards, self._settings.images)
        found, lower = {}, {}
        for name in self.names:
            module = evaluation.MEASURES[name]
            try:
                one = module.measure(material, self._settings)
            except HiresError as error:  # such as band measures at 4x4: alike on every rank, and no reason to end a run
                if (name, resolution) not in self._told:
                    self._told.add((name, resolution))
                    self._say(f"{resolution:>4}px no {name}: {error}")
                continue
            found |= one
            value = module.lower(one)
            if value is not None:  # such as fidelity's without weights
                lower[name] = value
        return found, lower

    def _subject(self, networks: dict[str, nn.Module], images: int, resolution: int, alpha: float) -> subject.Subject:
        size = resolution, self._config.network.image_channels, self._config.network.latent
        return subject.of_networks(networks, self._config.objective, self._config.run, images, size, alpha, self._world.device)
