"""Generator, energy-based model and inference model, grown together from 4x4 to 1024x1024 pixels.

From Python `load` opens a bundle, and each verb of the command line is a function (docs/reference/python.md).

    import hires
    b = hires.load("bundle")
    x = b.sample(seeds=range(16))                               # (16, C, r, r) float in [-1, 1]
    run = hires.train(["experiment=digits"], run="runs/a")      # as `hires train experiment=digits run=runs/a`

A verb takes the command line's settings as a list of strings, as keywords, or both: `train={"threads": 1}` is train.threads=1, a list or
a range is joined by commas, and from=… is written `from_`. It prints what the command prints, returns what it made, and raises HiresError,
one line, for whatever a person can mend. Nothing heavy is imported before a function needs it.
"""

from collections.abc import Iterable
import os
from pathlib import Path
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hires.errors import HiresError

# OpenMP reads these once, when torch is loaded. Its threads spin while they wait by default: beside a busy neighbour two of them then
# take up to twenty times as long as one, while sleeping ones lose nothing on an idle machine either (docs/records/performance.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from hires.bundle.hires_bundle import Bundle
    from hires.verbs import Result
    from hires.verbs.checkpoints import Checkpoints
    from hires.verbs.demo import Demo
    from hires.verbs.edit import Edited
    from hires.verbs.evaluate import Evaluated
    from hires.verbs.export import Exported
    from hires.verbs.inspect import Inspected
    from hires.verbs.plan import Planned
    from hires.verbs.prepare import Prepared
    from hires.verbs.reconstruct import Sheet
    from hires.verbs.report import Page
    from hires.verbs.restore import Restored
    from hires.verbs.sample import Sampled
    from hires.verbs.score import Scored
    from hires.verbs.slurm import Status
    from hires.verbs.train import Trained
    from hires.verbs.video import Clip

Settings = str | Iterable[str]


def load(bundle: str | Path, device: str = "auto") -> "Bundle":
    """The bundle in a folder that `hires export` wrote, as its own hires_bundle.py gives it; `device`: auto, cpu, cuda or cuda:N.

    On a GPU convolutions stay in fp32 from here on: TF32, torch's default, would change pictures. Raises HiresError for what is no bundle.
    """
    from hires.sampling.seeds import load_bundle

    return load_bundle(str(bundle), device)


def pictures(where: str | Path, like: "Bundle", limit: int | None = None) -> tuple[list[str], "Tensor"]:
    """Names and pictures (N, C, r, r), float in [-1, 1], of a folder, a file, or prepared data (its held-out split), at a bundle's size.

    Raises HiresError where there are none, or for one that cannot be read.
    """
    from hires.media.pictures import read_pictures

    return read_pictures(str(where), like.resolution, like.config["image_channels"], limit)


def grid(x: "Tensor", columns: int | None = None) -> "Image":
    """Pictures (N, C, r, r), float in [-1, 1], C 1 or 3, as one picture that a notebook shows and `.save("grid.png")` writes.

    As square as it gets unless `columns` says else; cells below 64 pixels are enlarged. Raises HiresError for another shape.
    """
    from hires.ground.images import grid

    return grid(x, columns)


def _call(verb: str, settings: Settings, keywords: dict[str, Any]) -> Any:
    from hires.verbs import call

    return call(verb, settings, keywords)


def demo(settings: Settings = (), /, **keywords: Any) -> "Demo":
    """The built-in digits, or a folder of pictures -> networks and what they draw, in minutes."""
    return _call("demo", settings, keywords)


def prepare(settings: Settings = (), /, **keywords: Any) -> "Prepared":
    """A folder of pictures (or the built-in digits) -> a pyramid of shards."""
    return _call("prepare", settings, keywords)


def inspect(settings: Settings = (), /, **keywords: Any) -> "Inspected":
    """Is a prepared data set whole, what is in it, how fast does it decode?"""
    return _call("inspect", settings, keywords)


def plan(settings: Settings = (), /, **keywords: Any) -> "Planned":
    """A training schedule as a table, without training."""
    return _call("plan", settings, keywords)


def train(settings: Settings = (), /, **keywords: Any) -> "Trained":
    """Train, or resume, a run; interrupted, it saves first, and the same call continues."""
    return _call("train", settings, keywords)


def checkpoints(settings: Settings = (), /, **keywords: Any) -> "Checkpoints":
    """A run's checkpoints; with action="verify" read whole."""
    return _call("checkpoints", settings, keywords)


def evaluate(settings: Settings = (), /, **keywords: Any) -> "Evaluated":
    """Measure a run or a bundle against held-out pictures."""
    return _call("evaluate", settings, keywords)


def report(settings: Settings = (), /, **keywords: Any) -> "Page":
    """A run -> one HTML page."""
    return _call("report", settings, keywords)


def compare(settings: Settings = (), /, **keywords: Any) -> "Page":
    """Several runs -> one HTML page beside each other."""
    return _call("compare", settings, keywords)


def export(settings: Settings = (), /, **keywords: Any) -> "Exported":
    """A run -> a bundle that loads without this project."""
    return _call("export", settings, keywords)


def sample(settings: Settings = (), /, **keywords: Any) -> "Sampled":
    """A bundle -> a grid of pictures, or a folder of them."""
    return _call("sample", settings, keywords)


def reconstruct(settings: Settings = (), /, **keywords: Any) -> "Sheet":
    """Pictures -> codes -> pictures, side by side with their errors."""
    return _call("reconstruct", settings, keywords)


def score(settings: Settings = (), /, **keywords: Any) -> "Scored":
    """The energy of each picture, beside training and held-out pictures."""
    return _call("score", settings, keywords)


def restore(settings: Settings = (), /, **keywords: Any) -> "Restored":
    """Pictures with noise or without some of their pixels -> pictures, by Langevin steps on the energy."""
    return _call("restore", settings, keywords)


def edit(settings: Settings = (), /, **keywords: Any) -> "Edited":
    """Pictures + what folder A has more of than folder B."""
    return _call("edit", settings, keywords)


def video(settings: Settings = (), /, **keywords: Any) -> "Clip":
    """A bundle -> a clip between seeds, codes or pictures."""
    return _call("video", settings, keywords)


def video_growth(settings: Settings = (), /, **keywords: Any) -> "Clip":
    """A run -> a clip of its pictures as they grew."""
    return _call("video_growth", settings, keywords)


def explore(settings: Settings = (), /, **keywords: Any) -> "Result":
    """A bundle -> a local page, until interrupted."""
    return _call("explore", settings, keywords)


def slurm(settings: Settings = (), /, **keywords: Any) -> "Status":
    """How a run and its Slurm job stand."""
    return _call("slurm", settings, keywords)


__all__ = [
    "HiresError",
    "checkpoints",
    "compare",
    "demo",
    "edit",
    "evaluate",
    "explore",
    "export",
    "grid",
    "inspect",
    "load",
    "pictures",
    "plan",
    "prepare",
    "reconstruct",
    "report",
    "restore",
    "sample",
    "score",
    "slurm",
    "train",
    "video",
    "video_growth",
]


class _Package(ModuleType):
    """Keeps `hires.report` and its like the verbs: importing the subpackage of that name would put it in their place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
