"""Which checkpoints stay, and how the others leave: at no moment is half of one under a checkpoint's name."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
import re
import shutil

from pipelines.files import fsync


@dataclass(frozen=True)
class Policy:
    """What stays: the `newest` (at least 1); with `every` > 0 the first at or after each multiple of as many images; each level's last;
    with `best`, a measure, the one in which it was lowest, of the highest level that it was taken at.
    """

    newest: int
    every: int = 0
    levels: bool = True
    best: str = ""

    def kept(self, checkpoints: Iterable[tuple[int, int]], measured: dict[int, dict[str, float]] | None = None) -> dict[int, list[str]]:
        """Why each of (images, resolution) stays, in words, by images; what is not in the answer may go.

        `measured`: measures, lower is better, by images. Deciding again later, without what went meanwhile, spares the same ones: the first
        after a multiple stays the first after it, the best of those that were is the best of those left.
        """
        ordered = sorted(checkpoints)
        best = lowest(ordered, measured or {}, self.best)
        last = dict((resolution, images) for images, resolution in ordered)
        reasons: dict[int, list[str]] = {}
        before = 0
        for place, (images, resolution) in enumerate(ordered):
            found = []
            if place >= len(ordered) - self.newest:
                found.append("newest")
            if self.every and images // self.every > before // self.every:
                found.append(f"first from {images // self.every * self.every:,} on")
            if self.levels and last[resolution] == images:
                found.append(f"last of {resolution}x{resolution}")
            if images == best:
                found.append(f"best {self.best} ({measured[images][self.best]:.4g})")
            if found:
                reasons[images] = found
            before = images
        return reasons


def lowest(checkpoints: Iterable[tuple[int, int]], measured: dict[int, dict[str, float]], measure: str) -> int | None:
    """The images of the one of (images, resolution) in which the measure was lowest, of the highest resolution that it was taken at."""
    found = ((resolution, measured.get(images, {}).get(measure), images) for images, resolution in checkpoints)
    taken = [(-resolution, value, images) for resolution, value, images in found if value is not None]
    return min(taken)[2] if taken else None


def hidden(path: Path, why: str) -> Path:
    """The name of a checkpoint that is not one yet, or no longer: `why` is writing, replaced or deleting."""
    return path.with_name(f".{path.name}.{why}")


def tidy(folder: Path, say=print) -> None:
    """Remove what a save or a deletion that was cut short left, and tell each in a line; only for the run's one owner."""
    for path in sorted(folder.glob(".images-*")):
        match = re.fullmatch(r"\.(images-\d{12})\.(writing|replaced|deleting)", path.name)
        if not match:
            continue
        if match[2] == "replaced" and not (folder / match[1]).exists():  # killed between the two renames of a save over an older one
            path.rename(folder / match[1])
            fsync(folder)
            say(f"{folder / match[1]}: restored: the save that should have replaced it was interrupted")
            continue
        shutil.rmtree(path, ignore_errors=True)
        say(f"{path}: {'could not be removed' if path.exists() else 'removed'}, left by an interrupted run")


def remove(path: Path) -> None:
    """Delete a checkpoint; under a hidden name first, so that half of one is never taken for one. Never fails a run."""
    try:
        path.rename(hidden(path, "deleting"))
    except OSError:
        return  # it stays, whole; the next time may do better
    shutil.rmtree(hidden(path, "deleting"), ignore_errors=True)


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint damaged-…, for a person to look at."""
    names = (path.with_name(f"damaged-{path.name}{f'-{n}' if n else ''}") for n in count())
    path.rename(next(name for name in names if not name.exists()))
