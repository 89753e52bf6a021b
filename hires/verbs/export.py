"""`hires export`."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING
import torch

from hires.bundle import from_run
from hires.bundle.aggregate import Aggregate, fit
from hires.bundle.card import facts, listed, names
from hires.bundle.chains import chains_of
from hires.bundle.formats import parse_formats
from hires.bundle.hires_bundle import pictures_at_once
from hires.bundle.writing import KNOWN, require_new, write_bundle
from hires.errors import HiresError
from hires.ground.ranges import setting
from hires.objectives import system
from hires.verbs import Result
from pipelines import Loader, Shards


@dataclass
class Config:
    """hires export: a run -> a folder that loads without this project (docs/reference/bundle.md).
      hires export run=runs/faces                            # the newest checkpoint, as runs/faces/bundle-IMAGES
      hires export run=runs/faces out=bundle at=12M          # the newest that is not past 12 million images
      hires export run=runs/faces out=small resolution=256   # the newest that is stable at 256x256
      hires export run=runs/faces out=bundle formats=onnx,pt2
      hires export run=runs/faces out=bundle moments=4000    # for prior=aggregate of sample, video, explore
    """

    run: str = MISSING
    out: str = ""  # default: RUN/bundle-IMAGES
    at: str = ""  # the newest checkpoint at or before that many images, such as 12M; best (train.keep_best); empty = the newest
    resolution: int = 0  # the newest that is stable at that level; 0 = whichever level it has
    formats: str = ""  # onnx, pt2 or onnx,pt2: the networks in these formats as well
    # training pictures whose codes give the moments for prior=aggregate; they pass the inference model once; 0 = none
    moments: int = setting(0, at_least=0)


@dataclass(frozen=True)
class Exported(Result):
    """A bundle: its folder, its side in pixels, the images that its run had seen."""

    out: Path
    resolution: int
    images: int


def run(config: Config) -> Exported:
    """Write a bundle of a run's moving averages that loads without this project; refuses a checkpoint in the middle of a fade-in."""
    formats = parse_formats(config.formats)
    if config.out:
        require_new(Path(config.out))
    loaded = from_run.load(config.run, config.at, config.resolution)
    size = f"{loaded.resolution}x{loaded.resolution}"
    if loaded.fading:
        raise HiresError(
            f"{loaded.checkpoint}: {size} is fading in there (α = {loaded.alpha:.2f}), a bundle wants a stable level; choose one with "
            f"resolution=… or at=…: {from_run.told(from_run.list_stable(config.run))}"
        )
    out = Path(config.out) if config.out else Path(config.run) / f"bundle-{loaded.images:012d}"
    chains = chains_of(loaded.config.objective)
    moments = (_moments(loaded, config.moments),) if config.moments else ()
    if loaded.config.network.classes:
        loaded.networks.pop("variational", None)  # of a picture without a label it says nothing
    path = write_bundle(
        out, loaded.config.network, loaded.resolution, loaded.networks, facts(loaded, config.run), formats, chains, *moments
    )
    also = f", also as {' and '.join(formats)}" if formats else ""
    held = listed(names({f"has_{name}": name in loaded.networks for name in KNOWN}))
    print(f"{path}: {held} at {size}, {loaded.images:,} images seen{also}")
    if moments:
        told = moments[0].told()
        few = ", a diagonal: no more pictures than dimensions" * told["diagonal"]
        print(f"moments of {told['pictures']:,} codes, {told['kl_per_dimension']:.3f} nats a dimension from N(0, I){few}: prior=aggregate")
    return Exported(path, loaded.resolution, loaded.images)


def _moments(loaded: from_run.RunNetworks, count: int) -> Aggregate:
    """Moments of the codes of `count` training pictures, or all there are, drawn by a fixed permutation; raises HiresError or DataError."""
    inference, objective = loaded.networks.get("inference"), loaded.config.objective
    if inference is None or not system(objective).PRIOR_CODES:
        raise HiresError(f"moments={count}: objective={objective.name} has no inference model whose codes stand for latents; leave it out")
    shards = Shards.open(loaded.config.data.root)
    if shards.identity != loaded.data:
        raise HiresError(f"moments={count}: data.root={loaded.config.data.root} holds other pictures than the run was trained on")
    loader = Loader(shards, loaded.resolution, "train", 0.0)
    pick = torch.randperm(shards.count("train"), generator=torch.Generator().manual_seed(0))[:count]
    parts = pick.split(pictures_at_once(loaded.resolution))
    return fit(inference, (loader.read(part.numpy()).float() / 127.5 - 1 for part in parts))
