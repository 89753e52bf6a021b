"""`hires compare`."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from hires.errors import HiresError
from hires.report import comparison
from hires.report import run as run_folder
from hires.verbs.report import Page, out_file, written


@dataclass
class Config:
    """hires compare: several runs side by side on one HTML page (docs/reference/report.md).
      hires compare runs=runs/a,runs/b,runs/c out=compare.html
    """

    runs: str = MISSING  # folders of at least two runs, separated by commas
    out: str = "compare.html"
    real_pictures: bool = True  # false: as for `hires report`


def run(config: Config) -> Page:
    """Write one page that shows runs side by side; raises HiresError, before any work, for a folder that is not a run."""
    folders = [name.strip() for name in config.runs.split(",") if name.strip()]
    places = [Path(name).resolve() for name in folders]
    if len(set(places)) < 2:
        raise HiresError(f"runs={config.runs}: wanted at least two different runs separated by commas")
    if len(set(places)) < len(places):
        twice = next(name for name, place in zip(folders, places, strict=True) if places.count(place) > 1)
        raise HiresError(f"runs={config.runs}: {twice} is named twice")
    path = out_file(config.out)
    return written(path, *comparison.compare([run_folder.read(Path(name), "runs") for name in folders], config.real_pictures))
