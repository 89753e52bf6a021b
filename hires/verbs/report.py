"""`hires report`."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from hires.errors import HiresError
from hires.ground.files import whole_file
from hires.report import page
from hires.report import run as run_folder
from hires.report.gallery import Album
from hires.verbs import Result


@dataclass
class Config:
    """hires report: a run as one HTML page that holds all it shows (docs/reference/report.md).
      hires report run=runs/celebahq                                             writes runs/celebahq/report.html
      hires report run=runs/celebahq out=share.html real_pictures=false          without pictures of the data
    """

    run: str = MISSING
    out: str = ""  # a .html file; default: RUN/report.html
    real_pictures: bool = True  # false: no picture of the data, nor any that shows some beside its own, so that the page can be shared


@dataclass(frozen=True)
class Page(Result):
    """An HTML page."""

    out: Path


def run(config: Config) -> Page:
    """Write one page that shows a run, whatever state it is in; prints its name and its size."""
    found = run_folder.read(Path(config.run))
    path = out_file(config.out or str(Path(config.run) / "report.html"))
    return written(path, *page.report(found, config.real_pictures))


def written(path: Path, html: str, album: Album) -> Page:
    """Write the page whole, and print its name and its size."""
    with whole_file(path) as part:
        part.write_text(html, encoding="utf-8")
    left = f"; {len(album.left_out)} left out, listed at its end" if album.left_out else ""
    size = path.stat().st_size
    print(f"{path}: {f'{size / 1e6:.1f} MB' if size >= 1e6 else f'{size / 1e3:.0f} kB'}{left}")
    return Page(path)


def out_file(name: str) -> Path:
    """The page's name; raises HiresError for one that no browser takes for a page."""
    path = Path(name)
    if path.suffix.lower() not in (".html", ".htm"):
        raise HiresError(f"out={name}: wanted the name of a .html file")
    if path.is_dir():
        raise HiresError(f"out={name}: a folder; wanted the name of a .html file")
    return path
