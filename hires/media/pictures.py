"""Pictures of a user's own as tensors: one, a few named files, a folder of them, or the held-out split of a prepared data set."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
import os
from pathlib import Path

import torch
from torch import Tensor

from hires.errors import HiresError
from pipelines import DataError, Loader, Shards
from pipelines.manifest import MANIFEST
from pipelines.pyramid import pyramid, square
from pipelines.sources.base import decode_picture
from pipelines.sources.folder import FolderSource

BATCH = 64  # pictures read at a time
LARGEST = 4096  # pixels, the highest level that `hires prepare` knows


def read_picture(source: str | Path | bytes, resolution: int, channels: int, name: str = "") -> Tensor:
    """A picture's centre square as (C, r, r) float in [-1, 1], on the CPU: a file, or the bytes of one, known to a person as `name`.

    It is what `hires prepare` makes of it: EXIF rotation applied, transparency on white, by Lanczos to the level below its size, box means
    from there; a smaller one is enlarged by Lanczos. Nothing is written or executed. Raises HiresError if there is no such file, it is no
    picture in a format that `hires prepare` takes, is cut short, or has too many pixels (Pillow's guard against decompression bombs) or
    fewer than 4x4.
    """
    name = name or ("a picture" if isinstance(source, bytes) else str(source))
    data = source if isinstance(source, bytes) else _bytes(Path(source), name)
    try:
        image = decode_picture(data, name)
        top = resolution
        while not resolution & (resolution - 1) and 2 * top <= min(*image.size, LARGEST):  # other sizes are one level alone
            top *= 2
        pixels = next(level for level in pyramid(square(image, top, channels, "lanczos", upscale=True)) if len(level) == resolution)
    except DataError as error:
        raise HiresError(" ".join(str(error).split())) from error
    except ValueError as error:  # 3x3 pixels, floating-point values: what `square` found, without a name
        raise HiresError(f"{name}: {error}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(127.5).sub(1)


def picture_batches(
    where: str, resolution: int, channels: int, limit: int | None = None, split: str = "holdout", drawn: bool = False
) -> Iterator[tuple[list[str], Tensor]]:
    """Names and pictures (B, C, r, r), float in [-1, 1], of `where`, at most 64 at a time; read in threads, in order.

    `where` is a folder of pictures (at any depth, sorted by name), one file or several separated by commas, or a prepared data set, of
    which `split` is read. At most `limit` are read: the first, or with `drawn` as many picked at random, the same ones each time. Raises
    HiresError, or DataError of a data set, where there is nothing to read, or as `read_picture` does.
    """
    if is_prepared(where):
        yield from _of_shards(where, resolution, channels, limit, split, drawn)
        return
    files = list_pictures(where)
    files = [files[i] for i in _chosen(len(files), limit, drawn)]
    read = partial(read_picture, resolution=resolution, channels=channels)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for i in range(0, len(files), BATCH):
            names = files[i : i + BATCH]
            yield names, torch.stack(list(pool.map(read, names)))


def read_pictures(where: str, resolution: int, channels: int, limit: int | None = None) -> tuple[list[str], Tensor]:
    """All of `picture_batches` at once: N names, and pictures (N, C, r, r), float in [-1, 1]; raises as it does."""
    batches = list(picture_batches(where, resolution, channels, limit))
    return [name for names, _ in batches for name in names], torch.cat([pictures for _, pictures in batches])


def is_prepared(where: str) -> bool:
    """Whether `where` is a data set that `hires prepare` wrote: a folder with its manifest, or an address."""
    return "://" in where or (Path(where) / MANIFEST).is_file()


def list_pictures(where: str) -> list[str]:
    """The files that `where` names, as paths: a folder's pictures at any depth, sorted, hidden ones left out, or the files of a list.

    Raises HiresError for an empty list, a file or folder that is not there, and a folder without a picture.
    """
    if Path(where).is_dir() and where:
        try:
            return sorted(item.name for item in FolderSource(where))
        except DataError as error:
            raise HiresError(str(error).removeprefix("path=")) from error
    files = [where] if Path(where).is_file() else [part.strip() for part in where.split(",") if part.strip()]
    if not files:
        raise HiresError("no picture named; wanted a folder, or files separated by commas")
    for file in files:
        if not Path(file).is_file():
            found = "a folder inside a list" if Path(file).is_dir() else "no such file or folder"
            raise HiresError(f"{file}: {found}; wanted a folder of pictures, or files separated by commas")
    return files


def _chosen(count: int, limit: int | None, drawn: bool) -> list[int]:
    limit = count if limit is None else min(limit, count)
    if not drawn:
        return list(range(limit))
    return sorted(torch.randperm(count, generator=torch.Generator().manual_seed(0))[:limit].tolist())


def _of_shards(
    where: str, resolution: int, channels: int, limit: int | None, split: str, drawn: bool
) -> Iterator[tuple[list[str], Tensor]]:
    shards = Shards.open(where)
    shards.require_level(resolution)
    if shards.channels != channels:
        raise HiresError(f"{where}: prepared with {shards.channels} channels; wanted {channels}, as the sampler has")
    if not shards.count(split):
        advice = "prepare it with split.holdout=… or split.prefix=…" if split == "holdout" else "prepare it with fewer held out"
        raise HiresError(f"{where}: no picture in the split {split}; {advice}")
    loader, keys = Loader(shards, resolution, split, cache_gb=0.0), shards.keys(split)
    chosen = _chosen(len(keys), limit, drawn)
    for i in range(0, len(chosen), BATCH):
        part = chosen[i : i + BATCH]
        yield [keys[k] for k in part], loader.read(part).float() / 127.5 - 1


def _bytes(file: Path, name: str) -> bytes:
    if not file.is_file():
        raise HiresError(f"{name}: {'a folder' if file.is_dir() else 'no such file'}; wanted a picture")
    try:
        return file.read_bytes()
    except OSError as error:
        raise HiresError(f"{name}: cannot be read ({error.strerror})") from error
