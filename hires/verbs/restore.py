"""`hires restore`."""

import csv
from dataclasses import dataclass, field
import math
from pathlib import Path

from omegaconf import MISSING
import torch
from torch import Tensor

from hires.errors import HiresError
from hires.ground.files import whole_file
from hires.ground.images import check_png
from hires.ground.ranges import setting
from hires.media.pictures import read_pictures
from hires.media.sheets import save_sheet
from hires.sampling import refining
from hires.sampling.refining import LangevinConfig
from hires.sampling.restoring import corrupt, errors, guess, psnr, restore, steps_of, unknown_pixels
from hires.sampling.seeds import open_bundle
from hires.verbs import Result

STEPS = {"denoise": 20, "inpaint": 400}


@dataclass
class Config:
    """hires restore: pictures are corrupted, put right by Langevin steps on a bundle's energy, and compared (docs/reference/sampling.md).
      hires restore sampler=bundle from=data/mnist out=sheet.png task=denoise noise=0.3
      hires restore sampler=bundle from=data/mnist out=sheet.png task=inpaint mask=random:0.5     # or center, left, bottom, FILE.png
      hires restore sampler=bundle from=data/mnist out=sheet.png langevin.steps=40
    """

    sampler: str = MISSING  # a bundle with an energy
    from_: str = MISSING  # written from=…: whole pictures, which are corrupted here; as for `hires reconstruct`
    out: str = MISSING  # a .png file: original, corrupted, restored; beside it, under the same name, a .csv of their errors
    task: str = setting("denoise", among=("denoise", "inpaint"))  # denoise | inpaint
    noise: float = setting(0.3, above=0)  # of denoise: standard deviation on pixels in [-1, 1]
    mask: str = "center"  # of inpaint, what is unknown: center | left | bottom | random:0.5 | FILE.png (white)
    langevin: LangevinConfig = field(default_factory=LangevinConfig)  # null: the sampler's own; steps 0: 20 to denoise, 400 to inpaint
    seed: int = setting(0, at_least=0)  # of the corruption and of the steps' noise
    limit: int = setting(64, at_least=0)  # most pictures; 0 = all
    show: int = setting(16, at_least=1)  # most of them on the sheet
    device: str = "auto"


@dataclass(frozen=True)
class Restored(Result):
    """A sheet and a table: names, and each picture's mean squared error on [-1, 1] before and after, (N,)."""

    out: Path
    table: Path
    names: list[str] = field(repr=False)
    before: Tensor = field(repr=False)
    after: Tensor = field(repr=False)


def run(config: Config) -> Restored:
    """Corrupt pictures, restore them by Langevin steps on the energy, and write a sheet and a table of their errors before and after."""
    _check(config)
    bundle = open_bundle(config.sampler, config.device, "energy")
    names, pictures = read_pictures(config.from_, bundle.resolution, bundle.config["image_channels"], config.limit or None)
    inpaints = config.task == "inpaint"
    unknown = unknown_pixels(config.mask, bundle.resolution, len(pictures), config.seed) if inpaints else None
    corrupted = corrupt(pictures, config.noise, unknown, config.seed)
    steps = steps_of(bundle, config.langevin)
    steps.count = steps.count or STEPS[config.task]
    restored = restore(bundle, corrupted, steps, unknown, config.seed)
    before, after = errors(pictures, corrupted, unknown), errors(pictures, restored, unknown)
    task = f"inpaint mask={config.mask}" if inpaints else f"denoise noise={config.noise:g}"
    total = f"{_told(before)} -> {_told(after)}"
    rows = zip(names, psnr(before).tolist(), psnr(after).tolist(), strict=True)
    captions = [f"{name}  {a:.1f} -> {b:.1f} dB" for name, a, b in rows][: config.show]
    strips = torch.stack([pictures, corrupted, restored], 1)[: config.show]
    save_sheet(config.out, strips, captions, ["original", "corrupted", "restored"], f"{task}, {len(names)} pictures: {total}")
    table = Path(config.out).with_suffix(".csv")
    _write_table(table, names, before, after)
    better = int((after < before).sum())
    slope = f"{steps.size:.4g} dU/dx"
    moved = slope if math.isinf(steps.reach) else f"clamp({slope}, ±{steps.reach:g})"
    print(f"{steps.count} steps: x - {moved}" + (f" + {steps.noise:.4g} e" if steps.noise else ""))
    print(f"{task}{' (unknown pixels)' if inpaints else ''}: {total}; better for {better} of {len(names)}")
    if inpaints:
        plain = errors(pictures, guess(corrupted, unknown), unknown)
        print(f"to compare, the mean colour of the known pixels in place of the unknown ones: {_told(plain)}")
    print(f"{config.out}, {table}: {len(strips)} and {len(names)} pictures")
    return Restored(Path(config.out), table, names, before, after)


def _check(config: Config) -> None:
    check_png("out", config.out)
    if config.task not in STEPS:
        raise HiresError(f"task={config.task}: wanted {' or '.join(STEPS)}")
    if not 0 < config.noise < math.inf:
        raise HiresError(f"noise={config.noise}: wanted a number above 0")
    refining.check(config.langevin)
    if config.langevin.space != "pictures":
        raise HiresError(f"langevin.space={config.langevin.space}: restoring moves pixels; wanted langevin.space=pictures")


def _told(mse: Tensor) -> str:
    return f"mse {mse.mean():.4f}, PSNR {psnr(mse).mean():.2f} dB"


def _write_table(path: Path, names: list[str], before: Tensor, after: Tensor) -> None:
    columns = [before, psnr(before), after, psnr(after)]
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(["name", "mse_before", "psnr_before", "mse_after", "psnr_after"])
        table.writerows([name, *(f"{column[i]:.6g}" for column in columns)] for i, name in enumerate(names))
