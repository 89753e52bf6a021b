"""`hires sample`."""

from dataclasses import dataclass, field
import math
from pathlib import Path

from omegaconf import MISSING
from torch import Tensor

from hires.errors import HiresError
from hires.ground.ranges import setting
from hires.sampling import choosing, refining
from hires.sampling.drawing import check, draw
from hires.sampling.refining import LangevinConfig
from hires.sampling.saving import Written, write_folder, write_grid
from hires.sampling.seeds import open_bundle, parse_seeds
from hires.verbs import Result

TOLD = 64  # seeds that are listed with their energies


@dataclass
class Config:
    """hires sample: pictures of a bundle; seed n is the same picture in any list (docs/reference/sampling.md).
      hires sample sampler=bundle out=grid.png seeds=0-63                    # a grid
      hires sample sampler=bundle out=pictures seeds=0-9999                  # a folder: seed000000.png, …
      hires sample sampler=bundle out=best.png top_by=energy keep=0.5        # the half of lowest energy, lowest first
      hires sample sampler=bundle out=calm.png truncation=0.7                # latents times 0.7
      hires sample sampler=bundle out=wider.png prior=standard               # latents from N(0, I)
      hires sample sampler=bundle out=refined.png langevin.steps=20          # refined by the energy
    """

    sampler: str = MISSING  # a bundle
    out: str = MISSING  # a .png file: a grid; any other name: a new folder of numbered PNG files
    seeds: str = "0-63"  # such as 0-63 or 1,5,9
    prior: str = ""  # standard: latents from N(0, I) | aggregate: from the training codes' Gaussian; empty = that, where the bundle has it
    truncation: float = setting(1.0, above=0, below=math.inf)  # latents are multiplied by it; below 1 nearer to the mean picture
    top_by: str = setting("", among=("", "energy"))  # energy: pictures from the lowest energy to the highest
    keep: float = setting(1.0, above=0, at_most=1, wanted="a share above 0, at most 1")  # with top_by: the share of them that is kept
    langevin: LangevinConfig = field(default_factory=LangevinConfig)  # refinement by the energy
    device: str = "auto"  # auto | cpu | cuda | cuda:N


@dataclass(frozen=True)
class Sampled(Result):
    """A grid, or a folder of PNG files: the seeds of its pictures in their order, and their energies (N,) where some were computed."""

    out: Path
    seeds: list[int] = field(repr=False)
    energies: Tensor | None = field(repr=False)


def run(config: Config) -> Sampled:
    """Write a grid of a bundle's pictures, or a folder of numbered PNG files; seed n is the same picture in any of them."""
    suffix = "" if config.out.endswith("/") else Path(config.out).suffix
    if suffix.lower() not in ("", ".png"):
        raise HiresError(f"out={config.out}: wanted a .png file for a grid, or a folder for PNG files, written folder/")
    choosing.check_top(config.top_by, config.keep)
    refining.check(config.langevin)
    seeds = list(dict.fromkeys(parse_seeds(config.seeds)))  # one picture a seed
    bundle = open_bundle(config.sampler, config.device, "")
    check(bundle, config.truncation, config.langevin, bool(config.top_by), config.prior)
    drawn = draw(bundle, seeds, config.truncation, config.langevin, bool(config.top_by), config.prior)
    written = (write_grid if suffix else write_folder)(config.out, drawn, config.top_by, config.keep)
    _tell(config, written)
    seeds, energies = [written.seeds[i] for i in written.kept], written.energies
    return Sampled(Path(config.out), seeds, None if energies is None else energies[written.kept])


def _tell(config: Config, written: Written) -> None:
    energies, before = written.energies, written.before
    if config.langevin.steps:
        lower = int((energies < before).sum())
        print(f"refined: mean energy {before.mean():.4f} -> {energies.mean():.4f}, lower for {lower} of {len(energies)} pictures")
    if config.top_by:
        print(f"energy of all {len(energies)}: {energies.min():.4f} to {energies.max():.4f}, mean {energies.mean():.4f}; lowest first:")
        told = [f"{written.seeds[i]} ({energies[i]:.4f})" for i in written.kept[:TOLD]]
        print("seed (energy): " + ", ".join(told) + " …" * (len(written.kept) > TOLD))
    print(f"{config.out}: {len(written.kept)} pictures")
