"""Where a clip goes: latents of seeds, saved codes, or a person's own pictures."""

from dataclasses import dataclass
import json
from pathlib import Path
import re

from safetensors import SafetensorError, safe_open
from torch import Tensor

from hires.bundle.hires_bundle import Bundle
from hires.bundle.hires_bundle import latents as latents_of
from hires.errors import HiresError
from hires.media.pictures import read_pictures
from hires.sampling.codes import encode
from hires.sampling.seeds import parse_seeds

KEYS = 5  # keyframes of each cell where none are named


@dataclass
class Keyframes:
    """N keyframes in order."""

    latents: Tensor  # (N, d) float on the CPU
    names: list[str]  # what a caption calls each
    pictures: Tensor | None = None  # (N, C, r, r) float in [-1, 1]: the originals, where they are pictures


def parse_grid(text: str) -> tuple[int, int]:
    """'4x2' as (4, 2), columns and rows; raises HiresError for anything else."""
    match = re.fullmatch(r"(\d+)x(\d+)", str(text).strip())
    if not match or not 1 <= int(match[1]) * int(match[2]) <= 1024:
        raise HiresError(f"grid={text}: wanted columns and rows such as 4x2, at most 1024 cells")
    return int(match[1]), int(match[2])


def cell_keys(count: int, cells: int, grid: str) -> int:
    """How many of `count` keyframes each of the grid's cells gets, one after another; raises HiresError where they do not divide."""
    if count % cells:
        raise HiresError(f"grid={grid}: {count} keyframes for {cells} cells, wanted as many for each: {cells} x 2, {cells} x 3, …")
    return count // cells


def one_source(seeds: str, codes: str, pictures: str) -> str:
    """The name of the setting that says the keyframes: seeds where none does; raises HiresError for two of them."""
    given = [name for name, value in (("seeds", seeds), ("codes", codes), ("from", pictures)) if value]
    if len(given) > 1:
        raise HiresError(f"{' and '.join(f'{name}=…' for name in given)} given: keyframes come from one of seeds, codes and from")
    return given[0] if given else "seeds"


def read_codes(path: str) -> tuple[list[str], Tensor]:
    """Names and codes (N, d) of a file that `hires reconstruct codes=…` wrote: its tensor `mu`.

    Raises HiresError where it is no such file, or holds values that are not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if "mu" not in file.keys():  # noqa: SIM118 - a safetensors handle is no dictionary
                raise HiresError(f"codes={path}: no tensor mu in it; wanted what hires reconstruct codes=… writes")
            mu, metadata = file.get_tensor("mu"), file.metadata() or {}
        names = json.loads(metadata.get("names", "[]"))
    except FileNotFoundError:
        raise HiresError(f"codes={path}: no such file") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise HiresError(f"codes={path}: not a whole safetensors file ({error})") from error
    if mu.ndim != 2 or not mu.is_floating_point() or not mu.isfinite().all():
        raise HiresError(f"codes={path}: mu is {mu.dtype} {tuple(mu.shape)}; wanted finite float (N, d)")
    names = names if isinstance(names, list) and len(names) == len(mu) else range(len(mu))
    return [short_name(str(name)) for name in names], mu.float()


def short_name(name: str) -> str:
    """A picture's file name without its folder and ending, its middle left out where it is longer than 20 characters."""
    stem = Path(name).stem or name
    return stem if len(stem) <= 20 else f"{stem[:12]}…{stem[-7:]}"


def keyframes(bundle: Bundle, seeds: str = "", codes: str = "", pictures: str = "", limit: int = 0, cells: int = 1) -> Keyframes:
    """Keyframes of the one source that is given, or seeds 0, 1, …, five for each of `cells`; pictures become the inference model's means.

    `limit`: most that are taken, 0 = all.

    Raises HiresError where two are given, or as reading them does, or for codes of another length than the bundle's latents.
    """
    source = one_source(seeds, codes, pictures)
    if source == "codes":
        names, latents = read_codes(codes)
        names, latents = names[: limit or None], latents[: limit or None]
        if latents.shape[1] != bundle.latent:
            raise HiresError(f"codes={codes}: {latents.shape[1]} numbers a code, the sampler's latents have {bundle.latent}")
        return Keyframes(latents, names)
    if source == "from":
        names, originals = read_pictures(pictures, bundle.resolution, bundle.config["image_channels"], limit or None)
        return Keyframes(encode(bundle, originals)[0], [short_name(name) for name in names], originals)
    numbers = parse_seeds(seeds) if seeds else list(range(KEYS * cells))
    numbers = numbers[: limit or None]
    return Keyframes(latents_of(numbers, bundle.latent), [str(number) for number in numbers])
