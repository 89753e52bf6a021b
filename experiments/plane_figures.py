"""The figures of experiments/plane.py: for each set the systems' samples and their energies, beside the truth."""

from pathlib import Path

from matplotlib import pyplot as plt
import numpy as np
from plane_sets import CELLS, PlaneSet, grid
import torch

from hires.ground.files import whole_file

COLUMNS, SHOWN, DEPTH = 6, 2000, 8.0  # systems in a row, points of each, and nats of energy above the lowest that are told apart


def _bare(axis) -> None:
    axis.set(xlim=(-0.99, 0.99), ylim=(-0.99, 0.99), xticks=[], yticks=[], aspect="equal")


def page(path: Path, truth: PlaneSet, runs: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Samples (n, 2) and below them energies on the grid (CELLS^2,) of each run by name, the truth first.

    Contours go from an energy's least where the truth has its mass up to DEPTH above that or, of flatter ones, to what three quarters of
    the square stay below: each has its own scale, dark is low.
    """
    dice = torch.Generator().manual_seed(0)
    known = (truth.sample(SHOWN, dice).numpy(), -truth.log_density(grid()).numpy())
    dense = -known[1] > np.log(0.1)  # a tenth and more of a mass of 1 a unit of area
    columns = {"truth": known, **runs}
    bands = -(-len(columns) // COLUMNS)
    figure, axes = plt.subplots(2 * bands, COLUMNS, figsize=(1.9 * COLUMNS, 4.0 * bands), squeeze=False)
    at = (np.arange(CELLS) + 0.5) * 2 / CELLS - 1
    for axis in axes.ravel():
        axis.set_axis_off()
    for i, (name, (x, u)) in enumerate(columns.items()):
        u = u.clip(max=1e6)  # the truth's may be infinite
        points, energy = axes[2 * (i // COLUMNS), i % COLUMNS], axes[2 * (i // COLUMNS) + 1, i % COLUMNS]
        for axis in (points, energy):
            axis.set_axis_on()
            _bare(axis)
        points.scatter(*x[:SHOWN].T, s=0.6, c="C0" if i else "k", linewidths=0)
        points.set_title(name, fontsize=9)
        low = u[dense].min()
        height = (u - low).clip(0, min(DEPTH, max(1e-3, np.quantile(u, 0.75) - low))).reshape(CELLS, CELLS)
        energy.contourf(at, at, height.T, levels=14, cmap="magma")
    figure.tight_layout(pad=0.8)
    with whole_file(path) as part:
        figure.savefig(part, dpi=100, format="png")
    plt.close(figure)
    print(f"wrote {path}")
