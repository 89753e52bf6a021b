"""Where a run's numbers and grids go beside metrics.jsonl: wandb and TensorBoard, by images seen."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
import secrets
from typing import Any

import numpy as np

from hires.errors import HiresError


def check(wandb: str, tensorboard: bool) -> None:
    """Raise HiresError for a package that is not installed."""
    if wandb != "off" and not find_spec("wandb"):
        raise HiresError(f"monitor.wandb={wandb} needs wandb, not installed: pip install 'hires[wandb]'")
    if tensorboard and not find_spec("tensorboard"):
        raise HiresError("monitor.tensorboard=true needs tensorboard, not installed: pip install 'hires[tensorboard]'")


class Wandb:
    """The run on wandb. Its steps only count; every chart's axis is the images seen, which go back when a run resumes from a checkpoint."""

    NAME = "monitor.wandb"

    def __init__(self, run: Path, mode: str, config: dict):
        import wandb

        self._image = wandb.Image
        self._run = wandb.init(project="hires", name=run.name, id=_own_id(run), dir=str(run), mode=mode, config=config, resume="allow")
        self._run.define_metric("*", step_metric="images")

    def resume(self, images: int) -> None:
        """What was sent beyond `images` stays: a server takes nothing back."""

    def log(self, values: Mapping[str, float], images: int) -> None:
        """Numbers at `images`."""
        self._run.log({**values, "images": images})

    def grid(self, name: str, pixels: np.ndarray, images: int) -> None:
        """A picture (H, W, 3), uint8."""
        self._run.log({f"grids/{name}": self._image(pixels), "images": images})

    def close(self) -> None:
        """Send what is left; may take a while."""
        self._run.finish()


class TensorBoard:
    """Files of events under RUN/tensorboard; each begins where the run went on, and ends the older ones there."""

    NAME = "monitor.tensorboard"

    def __init__(self, run: Path):
        self._folder, self._resumed = run / "tensorboard", 0
        self._writer: Any = None  # SummaryWriter

    def resume(self, images: int) -> None:
        """A new file that ends the older ones at `images`: what they hold beyond is about to happen again."""
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        self._resumed = images  # a point there is in the older files
        self._writer = SummaryWriter(str(self._folder), purge_step=images + 1)

    def log(self, values: Mapping[str, float], images: int) -> None:
        """Numbers at `images`."""
        if images > self._resumed:
            for name in values.keys() - {"images"}:
                self._writer.add_scalar(name, values[name], images)
            self._writer.flush()  # a killed run has them as it has metrics.jsonl

    def grid(self, name: str, pixels: np.ndarray, images: int) -> None:
        """A picture (H, W, 3), uint8."""
        if images > self._resumed:
            self._writer.add_image(f"grids/{name}", pixels, images, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """Flush and end."""
        if self._writer:
            self._writer.close()


def _own_id(run: Path) -> str:
    """The run's id on wandb, kept in its folder: runs of one name in two folders are two, and one that was moved is the same."""
    file = run / "wandb_id"
    if not file.exists():
        run.mkdir(parents=True, exist_ok=True)
        before = run.name if (run / "wandb").is_dir() else ""  # as it was called before ids were kept
        file.write_text(before or secrets.token_hex(4), encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
