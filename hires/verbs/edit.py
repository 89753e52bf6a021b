"""`hires edit`."""

from dataclasses import dataclass, field
import math
from pathlib import Path

from omegaconf import MISSING
import torch
from torch import Tensor

from hires.errors import HiresError
from hires.ground.images import check_png
from hires.ground.ranges import setting
from hires.media.pictures import picture_batches, read_pictures
from hires.media.sheets import save_sheet
from hires.sampling.codes import edited, encode, mean_code
from hires.sampling.seeds import open_bundle
from hires.verbs import Result


@dataclass
class Config:
    """hires edit: pictures whose codes are moved by the mean code of one folder minus that of another (docs/reference/sampling.md).
      hires edit sampler=bundle plus=smiling minus=serious from=me.jpg out=sheet.png strength=0,0.5,1,1.5
    """

    sampler: str = MISSING
    plus: str = MISSING  # pictures that have it
    minus: str = MISSING  # pictures that do not
    from_: str = MISSING  # written from=…: pictures to change
    out: str = MISSING  # a .png file: one row per picture, one column per strength, the original first
    strength: str = "0,0.5,1,1.5"  # multiples of the mean code of `plus` minus that of `minus`; 0 is the reconstruction
    show: int = setting(16, at_least=1)  # most rows
    device: str = "auto"


@dataclass(frozen=True)
class Edited(Result):
    """A sheet, and the direction (d,) that was added: the mean code of one folder minus that of another."""

    out: Path
    direction: Tensor = field(repr=False)


def run(config: Config) -> Edited:
    """Write a sheet of pictures moved along the mean code of one folder minus that of another."""
    check_png("out", config.out)
    strengths = _strengths(config.strength)
    bundle = open_bundle(config.sampler, config.device)
    size = bundle.resolution, bundle.config["image_channels"]
    names, pictures = read_pictures(config.from_, *size, config.show)
    plus, count_plus = mean_code(bundle, picture_batches(config.plus, *size))
    minus, count_minus = mean_code(bundle, picture_batches(config.minus, *size))
    direction = plus - minus
    strips = torch.cat([pictures[:, None], edited(bundle, encode(bundle, pictures)[0], direction, strengths)], 1)
    title = f"+ {config.plus} ({count_plus})  - {config.minus} ({count_minus})"
    heads = ["original", *(f"{strength:+g}" if strength else "0" for strength in strengths)]
    save_sheet(config.out, strips, names, heads, title, columns=1)
    print(f"{config.plus}: mean code of {count_plus} pictures; {config.minus}: of {count_minus}; their distance is {direction.norm():.3f}")
    print(f"{config.out}: {len(names)} pictures at {len(strengths)} strengths")
    return Edited(Path(config.out), direction)


def _strengths(text: str) -> list[float]:
    try:
        strengths = [float(part) for part in str(text).split(",")]
    except ValueError:
        strengths = []
    if not strengths or not all(map(math.isfinite, strengths)):
        raise HiresError(f"strength={text}: wanted numbers such as 0,0.5,1,1.5")
    return strengths
