"""What lies among a run's checkpoints: whole, unfinished, damaged."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hires.checkpoints import reading
from hires.errors import HiresError

HIDDEN = {".writing": "being written, or cut short", ".replaced": "moved away for a new one", ".deleting": "being deleted, or cut short"}


@dataclass
class Found:
    """A folder among a run's checkpoints; `problem` is None where it is whole as far as was looked."""

    path: Path
    manifest: dict
    problem: str | None

    @property
    def usable(self) -> bool:
        """Whether a restart may take it."""
        return self.problem is None and self.path.name.startswith("images-")


def look(folder: Path, hashes: bool) -> list[Found]:
    """Every checkpoint under `folder`, unfinished and set aside ones too, in the order of images."""
    found = []
    for path in folder.iterdir():
        name = path.name.removeprefix(".").removeprefix("damaged-")
        if not name.startswith("images-") or not path.is_dir():
            continue
        manifest, problem = {}, HIDDEN.get(path.suffix) if path.name.startswith(".") else None
        if not problem:
            problem = reading.verify(path, hashes) if (path / reading.MANIFEST).is_file() else f"unfinished: no {reading.MANIFEST}"
        with suppress(HiresError):  # verify has said so
            manifest = reading.read_manifest(path)
        found.append(Found(path, manifest, problem))
    return sorted(found, key=lambda one: (one.path.name.removeprefix(".").removeprefix("damaged-"), one.path.name))
