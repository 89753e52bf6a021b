"""`hires score`."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from omegaconf import MISSING
from rich.table import Table

from hires.errors import HiresError
from hires.ground.images import check_png
from hires.ground.ranges import setting
from hires.ground.showing import show_table
from hires.media.pictures import is_prepared, picture_batches
from hires.sampling.scoring import draw_histogram, energies, share_above, write_table
from hires.sampling.seeds import open_bundle
from hires.verbs import Result

ODD = 0.05  # a picture whose energy is above that of all but this share of the held-out ones


@dataclass
class Config:
    """hires score: energies of pictures, as a table and a histogram beside training and held-out pictures (docs/reference/sampling.md).
      hires score sampler=bundle from=my/pictures data=data/faces out=score.png     # and score.csv
      hires score sampler=bundle from=my/pictures train=folderA heldout=folderB
    """

    sampler: str = MISSING
    from_: str = MISSING  # written from=…: pictures as for `hires reconstruct`
    out: str = "score.png"  # the histogram; beside it, under the same name, a .csv of name, energy, rank
    data: str = ""  # prepared data to compare with: its training and its held-out split; or each from where one likes:
    train: str = ""  # pictures trained on: a folder, files, or prepared data (its training split)
    heldout: str = ""  # pictures never trained on: a folder, files, or prepared data (its held-out split)
    images: int = setting(1000, at_least=2)  # most of each of these two, drawn at random
    device: str = "auto"


@dataclass(frozen=True)
class Scored(Result):
    """A histogram and a table: names, energies (N,), and for each the share of held-out pictures with more energy, (N,) in [0, 1]."""

    out: Path
    table: Path
    names: list[str] = field(repr=False)
    energies: np.ndarray = field(repr=False)
    heldout_above: np.ndarray | None = field(repr=False)  # None where there are no held-out pictures


def run(config: Config) -> Scored:
    """Write the energy of each picture as CSV, and a histogram beside the energies of training and held-out pictures."""
    check_png("out", config.out)
    if config.data and not is_prepared(config.data):  # a plain folder would be both sets
        raise HiresError(f"data={config.data}: not what hires prepare wrote; for other pictures give train=… and heldout=…")
    bundle = open_bundle(config.sampler, config.device, "energy")
    size = bundle.resolution, bundle.config["image_channels"]
    names, values = energies(bundle, picture_batches(config.from_, *size))
    sets = {f"from={config.from_}": values}  # a folder may be called training
    for name, where, split in (("training", config.train or config.data, "train"), ("held out", config.heldout or config.data, "holdout")):
        if where:
            sets[name] = energies(bundle, picture_batches(where, *size, config.images, split, drawn=True))[1]
    above = share_above(values, sets["held out"]) if "held out" in sets else None
    table = Path(config.out).with_suffix(".csv")
    write_table(table, names, values, above)
    draw_histogram(config.out, sets, f"{config.sampler} at {size[0]}x{size[0]}")
    _show(sets)
    if above is not None:
        odd = int((above < ODD).sum())
        print(
            f"{odd} of {len(above)} pictures have more energy than {1 - ODD:.0%} of the {len(sets['held out'])} held-out ones "
            f"({ODD * len(above):.0f} would be expected of pictures like these)"
        )
    print(f"{config.out}, {table}: {len(names)} pictures")
    return Scored(Path(config.out), table, names, values, above)


def _show(sets: dict) -> None:
    table = Table("pictures", "N", "mean energy", "deviation", "5%", "median", "95%")
    for name, values in sets.items():
        table.add_row(name, f"{len(values):,}", f"{values.mean():.4f}", f"{values.std():.4f}", *_quantiles(values))
    show_table(table)


def _quantiles(values) -> list[str]:
    return [f"{quantile:.4f}" for quantile in np.quantile(values, [0.05, 0.5, 0.95])]
