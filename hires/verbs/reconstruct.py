"""`hires reconstruct`."""

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING
import torch
from torch import Tensor

from hires.errors import HiresError
from hires.ground.images import check_png
from hires.ground.ranges import setting
from hires.media.pictures import picture_batches
from hires.media.sheets import save_sheet
from hires.sampling.codes import reconstruct, save_codes
from hires.sampling.seeds import open_bundle
from hires.verbs import Result


@dataclass
class Config:
    """hires reconstruct: pictures -> codes -> pictures, side by side, with their errors on [-1, 1] (docs/reference/sampling.md).
      hires reconstruct sampler=bundle from=my/pictures out=sheet.png
      hires reconstruct sampler=bundle from=a.jpg,b.jpg out=sheet.png codes=codes.safetensors
      hires reconstruct sampler=bundle from=data/faces out=sheet.png limit=1000     # prepared data: its held-out pictures
    """

    sampler: str = MISSING
    from_: str = MISSING  # written from=…: a folder of pictures, files separated by commas, or prepared data (its held-out split)
    out: str = MISSING  # a .png file: originals and reconstructions side by side
    codes: str = ""  # a .safetensors file to write as well: mu and logvar (N, d), mse (N,), names in its metadata
    limit: int = setting(0, at_least=0)  # most pictures; 0 = all
    show: int = setting(32, at_least=1)  # most of them on the sheet
    device: str = "auto"


@dataclass(frozen=True)
class Sheet(Result):
    """Originals beside reconstructions: of all N pictures their names, codes mu and logvar (N, d), errors mse (N,) on [-1, 1]."""

    out: Path
    names: list[str] = field(repr=False)
    mu: Tensor = field(repr=False)
    logvar: Tensor = field(repr=False)
    mse: Tensor = field(repr=False)


def run(config: Config) -> Sheet:
    """Write a sheet of pictures beside what the inference model and the generator together make of them, and the codes where asked."""
    check_png("out", config.out)
    if config.codes and Path(config.codes).suffix != ".safetensors":
        raise HiresError(f"codes={config.codes}: wanted the name of a .safetensors file")
    bundle = open_bundle(config.sampler, config.device)
    batches = picture_batches(config.from_, bundle.resolution, bundle.config["image_channels"], config.limit or None)
    shown: list[Tensor] = []
    done = []
    for batch in reconstruct(bundle, batches):
        room = config.show - sum(map(len, shown))
        shown += [torch.stack([batch.pictures, batch.reconstructions], 1)[:room]] if room else []
        done.append((batch.names, batch.mu, batch.logvar, batch.mse))
    names = [name for part in done for name in part[0]]
    mu, logvar, mse = (torch.cat([part[i] for part in done]) for i in (1, 2, 3))
    rmse, overall = mse.sqrt().tolist(), mse.double().mean().item()
    total = f"mse {overall:.4f}, rmse {overall**0.5:.4f} on [-1, 1]"
    strips = torch.cat(shown)
    captions = [f"{name}  rmse {each:.3f}" for name, each in zip(names, rmse, strict=True)][: len(strips)]
    save_sheet(config.out, strips, captions, ["original", "reconstruction"], f"{len(names)} pictures: {total}")
    for name, each in zip(names[: len(strips)], mse.tolist(), strict=False):
        print(f"{name}: mse {each:.4f}, rmse {each**0.5:.4f}")
    if config.codes:
        save_codes(config.codes, names, mu, logvar, mse)
        print(f"{config.codes}: mu and logvar {tuple(mu.shape)}")
    print(f"{config.out}: {len(strips)} of {len(names)} pictures; over all {len(names)}: {total}")
    return Sheet(Path(config.out), names, mu, logvar, mse)
