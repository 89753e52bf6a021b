"""Energies of pictures, ranked among those of held-out ones and shown in a histogram."""

from collections.abc import Iterable
import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hires.bundle.hires_bundle import Bundle
from hires.errors import HiresError
from hires.ground.files import whole_file

BINS = 40


def energies(bundle: Bundle, batches: Iterable[tuple[list[str], Tensor]]) -> tuple[list[str], np.ndarray]:
    """Names, and the energies U(x), float64 (N,), of all pictures in [-1, 1]; raises HiresError naming one whose energy is not finite."""
    names, found = [], []
    for part, pictures in batches:
        values = bundle.score(pictures).cpu()
        bad = (~torch.isfinite(values)).nonzero().flatten().tolist()
        if bad:
            raise HiresError(f"{part[bad[0]]}: its energy is {values[bad[0]]}; wanted a finite number")
        names += part
        found.append(values.double().numpy())
    return names, np.concatenate(found)


def share_above(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """For each of `values` (N,) the share of `reference` (M,) that is larger, in [0, 1]; equal ones count half.

    For pictures that come from where the reference comes from, this is spread evenly over [0, 1], whatever the energy's scale.
    """
    ordered = np.sort(reference)
    below, not_above = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return 1 - (below + not_above) / (2 * len(ordered))


def write_table(path: str | Path, names: list[str], values: np.ndarray, above: np.ndarray | None) -> None:
    """Write CSV: name, energy and, where there is `above`, heldout_above; in the order given, whole or not at all.

    Raises HiresError where it cannot be written.
    """
    with whole_file(Path(path)) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(["name", "energy"] + ["heldout_above"] * (above is not None))
        for i, name in enumerate(names):
            table.writerow([name, f"{values[i]:.6g}"] + ([f"{above[i]:.4f}"] if above is not None else []))


def draw_histogram(path: str | Path, sets: dict[str, np.ndarray], title: str) -> None:
    """Write a PNG with the density of each set's energies over common bins, its name and number in the legend, its mean as a line.

    Raises HiresError where it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    together = np.concatenate(list(sets.values()))
    low, high = together.min(), together.max()
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    with matplotlib.rc_context({"text.parse_math": False}):  # a folder may have a $ in its name
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for i, (name, values) in enumerate(sets.items()):
            style = {"histtype": "stepfilled", "alpha": 0.35} if i == 0 else {"histtype": "step", "linewidth": 1.6}
            axes.hist(values, edges, density=True, color=f"C{i}", label=f"{name}, N = {len(values):,}", **style)
            axes.axvline(values.mean(), color=f"C{i}", linestyle=":", linewidth=1.2)
        axes.set(xlabel="energy U(x), lower is more like the data; dotted: means", ylabel="density", title=title)
        axes.legend(frameon=False)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        with whole_file(Path(path)) as part:
            figure.savefig(part, format="png", dpi=120)
