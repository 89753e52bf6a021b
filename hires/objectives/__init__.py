"""The systems: one module each, a game between players. The trainer, the plan and export know a system by what its module has:

- `Config`, a dataclass: the system's settings, `name` first; with `players()`, `together()` (players whose gradients are held at one time),
  `fullest(kept, whole)` (bytes at the fullest moment) and `weights_at(resolution)` (weights that change with it, for tables)
- `check(config, network settings, zero stage)`: raises HiresError for what does not train
- `network(config, network settings, player, resolution, fading)`: a player's network, its parameters not yet set
- `Objective(config, latent, players)`: `batch(x, alpha, draw, latent)` gathers what a round needs, `round(batch, rates, resolution, due,
  micro_batch)` updates every player and returns measures; what is due only every so many steps is due when `every` divides their number;
  `pictures(averaged networks, x, z, alpha)` is what the grids in RUN/samples show of held-out pictures x and fixed latents z;
  `carried()` is what goes from step to step beside the players (a replay buffer), {name: (this rank's stretch, its start)}, saved with
  them and given back to a new Objective by `restore(checkpoint)`; most have none (rounds.CarriesNothing). The Config of one that has any
  tells its bytes, those of all ranks together, by `carries(resolution, channels)`
- `LOSSES`: what each player lowers, in a line; `TAKES`: what it reads, images "x", latents "z" or pairs "xz"; `SHAPED_BY`: names of
  settings that decide the networks; `ROWS`: images are taken in groups of so many; `TERMS`: measures by the player that they
  tell of; `LINE`: those of a progress line by shown name
"""

from types import ModuleType

from hires.ground.ranges import check_ranges
from hires.networks import NetworkConfig
from hires.objectives import contrastive_divergence, divergence_triangle, f_ebm, gan, latent_ebm, vae, vcd, vgan

SYSTEMS: dict[str, ModuleType] = {
    "divergence_triangle": divergence_triangle,
    "latent_ebm": latent_ebm,
    "vae": vae,
    "vgan": vgan,
    "gan": gan,
    "vcd": vcd,
    "f_ebm": f_ebm,
    "contrastive_divergence": contrastive_divergence,
}


def check(config, shape: NetworkConfig, zero_stage: int) -> None:
    """Raise HiresError for a setting outside its range, or a combination that does not train."""
    check_ranges(config, "objective.")
    system(config).check(config, shape, zero_stage)


def system(config) -> ModuleType:
    """The module of an objective's configuration."""
    return SYSTEMS[config.name]
