"""`hires sample`."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from hires.config import SampleConfig
from hires.errors import HiresError
from hires.sampling import choosing, refining
from hires.sampling.drawing import check, draw
from hires.sampling.seeds import open_bundle, parse_seeds
from hires.sampling.writing import Written, write_folder, write_grid
from hires.verbs import Result

TOLD = 64  # seeds that are told with their energies


@dataclass(frozen=True)
class Sampled(Result):
    """A grid, or a folder of PNG files: the seeds of its pictures in their order, and their energies (N,) where some were computed."""

    out: Path
    seeds: list[int] = field(repr=False)
    energies: Tensor | None = field(repr=False)


def run(config: SampleConfig) -> Sampled:
    """Write a grid of a bundle's pictures, or a folder of numbered PNG files; seed n is the same picture in any of them."""
    suffix = "" if config.out.endswith("/") else Path(config.out).suffix
    if suffix.lower() not in ("", ".png"):
        raise HiresError(f"out={config.out}: wanted a .png file for a grid, or a folder for PNG files, written folder/")
    choosing.check_truncation(config.truncation)
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


def _tell(config: SampleConfig, written: Written) -> None:
    energies, before = written.energies, written.before
    if config.langevin.steps:
        lower = int((energies < before).sum())
        print(f"refined: mean energy {before.mean():.4f} -> {energies.mean():.4f}, lower for {lower} of {len(energies)} pictures")
    if config.top_by:
        print(f"energy of all {len(energies)}: {energies.min():.4f} to {energies.max():.4f}, mean {energies.mean():.4f}; lowest first:")
        told = [f"{written.seeds[i]} ({energies[i]:.4f})" for i in written.kept[:TOLD]]
        print("seed (energy): " + ", ".join(told) + " …" * (len(written.kept) > TOLD))
    print(f"{config.out}: {len(written.kept)} pictures")
