"""The systems: a file each, a game between players (base.py says what every room may ask of one)."""

from hires.errors import HiresError
from hires.ground.ranges import check_ranges
from hires.networks import NetworkConfig
from hires.objectives import contrastive_divergence, divergence_triangle, f_ebm, gan, latent_ebm, vae, vcd, vgan, wgan
from hires.objectives.base import Objective, ObjectiveConfig

SYSTEMS: dict[str, type[Objective]] = {
    "divergence_triangle": divergence_triangle.Objective,
    "latent_ebm": latent_ebm.Objective,
    "vae": vae.Objective,
    "vgan": vgan.Objective,
    "gan": gan.Objective,
    "wgan": wgan.Objective,
    "vcd": vcd.Objective,
    "f_ebm": f_ebm.Objective,
    "contrastive_divergence": contrastive_divergence.Objective,
}


def check(config: ObjectiveConfig, shape: NetworkConfig, zero_stage: int) -> None:
    """Raise HiresError for a setting outside its range, or a combination that does not train."""
    check_ranges(config, "objective.")
    if shape.kind == "p3" and not isinstance(config, vgan.Config | gan.Config):
        raise HiresError(f"network.kind=p3 with objective={config.name}: these networks are for vgan, gan and vcd")
    if shape.kind == "p4" and (not isinstance(config, contrastive_divergence.Config | f_ebm.Config) or "generator" in config.players()):
        raise HiresError(f"network.kind=p4 with objective={config.name}: wanted contrastive_divergence, or f_ebm with sampler=replay")
    if shape.classes and shape.kind != "p4":
        raise HiresError(f"network.classes={shape.classes} with network.kind={shape.kind}: labels are read by network=p4 alone; wanted 0")
    system(config).check(config, shape, zero_stage)


def system(config: ObjectiveConfig) -> type[Objective]:
    """The game that an objective's configuration is of."""
    return SYSTEMS[config.name]
