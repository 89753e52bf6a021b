"""`hires checkpoints`."""

from dataclasses import dataclass, fields
from pathlib import Path
import time

from omegaconf import MISSING
from rich.table import Table

from hires.checkpoints import reading
from hires.checkpoints.inventory import Found, look
from hires.errors import HiresError
from hires.ground.ranges import setting
from hires.ground.showing import show_table
from hires.training.monitor import duration
from hires.training.settings import TrainConfig
from hires.verbs import Result


@dataclass
class Config:
    """hires checkpoints: what a run has saved, what of it is intact, and which checkpoint a restart would take.
      hires checkpoints run=runs/celebahq
      hires checkpoints verify run=runs/celebahq      reads every file and compares its hash; exit status 1 where one is damaged
    Nothing is changed. Without verify, only manifests and file sizes are checked.
    """

    run: str = MISSING
    action: str = setting("list", among=("list", "verify"))  # list | verify: read every file and compare its hash


@dataclass(frozen=True)
class Checkpoints(Result):
    """A run's checkpoints in the order of images, the one that a restart takes, and those that action=verify found damaged."""

    found: list[Found]
    newest: Path | None
    damaged: list[Path]

    @property
    def status(self) -> int:
        """1 where one is damaged."""
        return 1 if self.damaged else 0


def run(config: Config) -> Checkpoints:
    """Print the table."""
    folder = Path(config.run) / "checkpoints"
    found = look(folder, hashes=config.action == "verify") if folder.is_dir() else []
    if not found:
        raise HiresError(f"run={config.run}: no checkpoint in {folder}")
    usable = [one for one in found if one.usable]
    taken = usable[-1] if usable else None
    table = Table(title=f"{folder} ({'all files read' if config.action == 'verify' else 'manifests and sizes'})")
    for column in ("", "images", "level", "", "size", "processes", "ZeRO", "age", "state", "stays as"):
        table.add_column(column, justify="right" if column in ("images", "level", "size", "processes", "ZeRO", "age") else "left")
    reasons = _reasons(usable)
    for one in found:
        why = ", ".join(reasons.get(one.manifest["images"], ["nothing: the next save deletes it"])) if one.usable else ""
        table.add_row("→" if one is taken else "", *_described(one), one.problem or "whole", why)
    show_table(table)
    print(f"→ a restart takes {taken.path}" if taken else "no complete checkpoint: a restart refuses")
    damaged = [one.path for one in found if one.problem and not one.path.name.startswith(".") and config.action == "verify"]
    return Checkpoints(found, taken.path if taken else None, damaged)


def _reasons(usable: list[Found]) -> dict[int, list[str]]:
    """Why each stays, by the settings that the newest was saved with."""
    if not usable:
        return {}
    saved = usable[-1].manifest["config"].get("train", {})
    train = TrainConfig(**{field.name: saved[field.name] for field in fields(TrainConfig) if field.name in saved})
    measured = {one.manifest["images"]: one.manifest.get("measured", {}) for one in usable}
    return train.policy().kept([(one.manifest["images"], one.manifest["resolution"]) for one in usable], measured)


def _described(one: Found) -> list[str]:
    m = one.manifest
    if not m:
        return [one.path.name, *[""] * 3, "", "", ""]
    r, age = m["resolution"], time.time() - m["time"] if "time" in m else None
    phase = f"fading in, α {m.get('alpha', 1):.2f}" if m.get("fading") else "stable"
    told = "" if age is None else duration(age) if age >= 0 else "in the future"  # clocks differ, and nothing depends on them
    size = sum(entry["bytes"] for entry in m["files"])
    images = f"{m['images']:,}" if one.path.name == reading.folder_name(m["images"]) else one.path.name
    return [images, f"{r}x{r}", phase, f"{size / 1e6:,.1f} MB", str(m["world_size"]), str(m.get("zero_stage", "")), told]
