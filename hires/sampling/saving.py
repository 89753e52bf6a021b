"""Drawn samples as files: one grid, or a folder of numbered pictures, all of them or those of lowest energy."""

from collections.abc import Iterable
import csv
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hires.ground.files import whole_folder
from hires.ground.images import save_each, save_grid
from hires.sampling.choosing import lowest
from hires.sampling.drawing import Drawn


@dataclass
class Written:
    """All samples that were drawn, and which of them were written: indices in the order in which they are shown."""

    seeds: list[int]
    energies: Tensor | None  # (N,) on the CPU, where they were drawn with energies
    before: Tensor | None  # (N,), without refinement
    kept: list[int]


def write_grid(path: str | Path, drawn: Iterable[Drawn], top_by: str = "", keep: float = 1.0) -> Written:
    """Write samples as one PNG, in their order, or with `top_by` = energy the share `keep` of lowest energy, lowest first.

    Raises HiresError where an energy is not finite or the file cannot be written.
    """
    batches = list(drawn)
    written = _written(batches, top_by, keep)
    save_grid(torch.cat([batch.pictures.cpu() for batch in batches])[written.kept], path)
    return written


def write_folder(path: str | Path, drawn: Iterable[Drawn], top_by: str = "", keep: float = 1.0) -> Written:
    """Write samples as PNG files seed000012.png in a new folder, encoded while the next are drawn; seeds must differ.

    With `top_by` = energy the share `keep` of lowest energy, and energies.csv of file, energy, lowest first. Raises HiresError where an
    energy is not finite, `path` exists already, or it cannot be written.
    """
    batches = []

    def pictures():
        for batch in drawn:
            yield from ((folder / _name(seed), picture) for seed, picture in zip(batch.seeds, batch.pictures, strict=True))
            batches.append(Drawn(batch.seeds, batch.pictures[:0], batch.energies, batch.before))

    with whole_folder(path) as folder:
        save_each(pictures())
        written = _written(batches, top_by, keep)
        for i in set(range(len(written.seeds))) - set(written.kept):  # known only when all are drawn
            (folder / _name(written.seeds[i])).unlink()
        if top_by:
            with (folder / "energies.csv").open("w", newline="", encoding="utf-8") as file:
                rows = [[_name(written.seeds[i]), f"{written.energies[i]:.6g}"] for i in written.kept]
                csv.writer(file).writerows([["file", "energy"], *rows])
    return written


def _written(batches: list[Drawn], top_by: str, keep: float) -> Written:
    seeds = [seed for batch in batches for seed in batch.seeds]
    if batches[0].energies is None:
        return Written(seeds, None, None, list(range(len(seeds))))
    energies, before = (torch.cat([getattr(batch, name).cpu() for batch in batches]) for name in ("energies", "before"))
    return Written(seeds, energies, before, lowest(energies, keep) if top_by else list(range(len(seeds))))


def _name(seed: int) -> str:
    return f"seed{seed:06d}.png"
