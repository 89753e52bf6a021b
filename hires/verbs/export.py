"""`hires export`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING
import torch
from torch import Tensor, nn

from hires.bundle import from_run
from hires.bundle.aggregate import LARGEST, MOMENTS, Aggregate, fit
from hires.bundle.card import facts, listed, names
from hires.bundle.chains import chains_of
from hires.bundle.formats import parse_formats
from hires.bundle.hires_bundle import pictures_at_once
from hires.bundle.writing import KNOWN, require_new, write_bundle
from hires.errors import HiresError
from hires.ground.files import in_words
from hires.ground.ranges import setting
from hires.ground.showing import progress
from hires.objectives import system
from hires.verbs import Result
from pipelines import DataError, Loader, Shards


@dataclass
class Config:
    """hires export: a run -> a folder that loads without this project (docs/reference/bundle.md).
      hires export run=runs/faces                            # the newest checkpoint, as runs/faces/bundle-IMAGES
      hires export run=runs/faces out=bundle at=12M          # the newest that is not past 12 million images
      hires export run=runs/faces out=small resolution=256   # the newest that is stable at 256x256
      hires export run=runs/faces out=bundle formats=onnx,pt2
      hires export run=runs/faces out=bundle moments=0       # seeds' latents from N(0, I), not from the Gaussian of the codes
    """

    run: str = MISSING
    out: str = ""  # default: RUN/bundle-IMAGES
    at: str = ""  # the newest checkpoint at or before that many images, such as 12M; best (train.keep_best); empty = the newest
    resolution: int = 0  # the newest that is stable at that level; 0 = whichever level it has
    formats: str = ""  # onnx, pt2 or onnx,pt2: the networks in these formats as well
    # training pictures that pass the inference model once, for the Gaussian that seeds' latents come from (prior=aggregate); 0 = N(0, I);
    # empty = 4000 up to 128x128, where the system has codes and its pictures are there
    moments: int | None = setting(None, at_least=0)


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
    moments = _moments(loaded, config.moments)
    if loaded.config.network.classes:
        loaded.networks.pop("variational", None)  # of a picture without a label it says nothing
    path = write_bundle(
        out, loaded.config.network, loaded.resolution, loaded.networks, facts(loaded, config.run), formats, chains, moments
    )
    also = f", also as {' and '.join(formats)}" if formats else ""
    held = listed(names({f"has_{name}": name in loaded.networks for name in KNOWN}))
    print(f"{path}: {held} at {size}, {loaded.images:,} images seen{also}")
    if moments:
        told = moments.told()
        few = ", a diagonal: no more pictures than dimensions" * told["diagonal"]
        far = f"{told['kl_per_dimension']:.3f} nats a dimension from N(0, I)"
        print(f"seeds' latents come from the Gaussian of {told['pictures']:,} codes, {far}{few}; prior=standard draws from N(0, I)")
    return Exported(path, loaded.resolution, loaded.images)


def _moments(loaded: from_run.RunNetworks, count: int | None) -> Aggregate | None:
    """Moments of the codes of `count` training pictures, or all there are, drawn by a fixed permutation; None for 0.

    Where `count` is None a run without codes has none; nor has one of large pictures, or of pictures that cannot be read, which is told.
    Raises HiresError or DataError where a number was asked for.
    """
    inference, objective = loaded.networks.get("inference"), loaded.config.objective
    coded = inference is not None and system(objective).PRIOR_CODES
    if count and not coded:
        raise HiresError(f"moments={count}: objective={objective.name} has no inference model whose codes stand for latents; leave it out")
    if not coded or count == 0:
        return None
    if count is None and loaded.resolution > LARGEST:
        size = f"{loaded.resolution}x{loaded.resolution}"
        print(f"seeds' latents come from N(0, I): at {size} moments={MOMENTS} would take long; ask for them to have the codes' Gaussian")
        return None
    try:
        return _fitted(loaded, inference, count or MOMENTS)
    except (HiresError, DataError, OSError) as error:
        if count:
            raise
        print(f"seeds' latents come from N(0, I), there are no moments of codes: {in_words(error)}")
        return None


def _fitted(loaded: from_run.RunNetworks, inference: nn.Module, count: int) -> Aggregate:
    shards = Shards.open(loaded.config.data.root)
    if shards.identity != loaded.data:
        raise HiresError(f"moments: data.root={loaded.config.data.root} holds other pictures than the run was trained on")
    loader = Loader(shards, loaded.resolution, "train", 0.0)
    pick = torch.randperm(shards.count("train"), generator=torch.Generator().manual_seed(0))[:count]
    parts = pick.split(pictures_at_once(loaded.resolution))
    with progress("moments of codes", "pictures") as show:

        def pictures() -> Iterator[Tensor]:
            for i, part in enumerate(parts):
                show(i * len(parts[0]), len(pick))
                yield loader.read(part.numpy()).float() / 127.5 - 1

        return fit(inference, pictures())
