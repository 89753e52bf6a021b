"""The disconnectivity graph: a leaf a basin, its picture under it, branches that join at the barriers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hires.ground.files import whole_file

COLUMN, TALL = 0.62, 7.0  # inches: width a leaf, height of the figure
PICTURE = COLUMN * 72 * 0.88  # side of a picture in points
LARGEST = 420.0  # area in square points of the circle of the basin with most members


@dataclass
class Branches:
    """Where the lines of a graph lie: leaf k at x[k]."""

    x: np.ndarray  # (N,)
    lines: list[tuple[float, float, float, float]]  # x0, y0, x1, y1


def branches(energies: np.ndarray, joined: np.ndarray) -> Branches:
    """Leaves (N,) side by side in the order of the tree (a linkage matrix (N - 1, 4)), the deeper side of each joint to the left."""
    n = len(energies)
    lowest = list(energies) + [0.0] * (n - 1)
    for k, (a, b, *_) in enumerate(joined):
        lowest[n + k] = min(lowest[int(a)], lowest[int(b)])
    order, stack = [], [n + len(joined) - 1]
    while stack:
        node = stack.pop()
        if node < n:
            order.append(node)
        else:
            stack += sorted((int(side) for side in joined[node - n, :2]), key=lambda side: -lowest[side])
    x = np.zeros(2 * n - 1)
    x[order] = np.arange(n)
    y, lines = np.concatenate([energies, joined[:, 2]]), []
    for k, (a, b, *_) in enumerate(joined):
        a, b = int(a), int(b)
        x[n + k] = (x[a] + x[b]) / 2
        lines += [(x[a], y[a], x[a], y[n + k]), (x[b], y[b], x[b], y[n + k]), (x[a], y[n + k], x[b], y[n + k])]
    return Branches(x[:n], lines)


def draw(
    path: Path,
    energies: np.ndarray,
    members: np.ndarray,
    joined: np.ndarray,
    pictures: np.ndarray,
    levels: dict[str, float],
    title: str,
) -> None:
    """Write a PNG: energies (N,) and members (N,) of the basins, their tree, pictures (N, h, w, 3) uint8, mean energies to compare with.

    A circle's area is proportional to the descents that ended in its basin. Raises HiresError where it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    with matplotlib.rc_context({"text.parse_math": False}):  # a run's folder may have a $ in its name
        figure = Figure(figsize=(max(5.0, 1.4 + COLUMN * len(energies)), TALL), layout="constrained")
        axes = figure.subplots()
        graph = branches(energies, joined)
        for x0, y0, x1, y1 in graph.lines:
            axes.plot([x0, x1], [y0, y1], color="0.35", linewidth=1.1, zorder=1, solid_capstyle="round")
        axes.scatter(graph.x, energies, s=LARGEST * members / members.max(), color="C0", alpha=0.75, linewidth=0, zorder=2)
        for k in range(len(energies)):
            down = -8 - 0.5 * (LARGEST * members[k] / members.max()) ** 0.5
            picture = OffsetImage(pictures[k], zoom=PICTURE / pictures.shape[2], interpolation="nearest")
            under = {"xybox": (0, down + 6), "boxcoords": "offset points", "box_alignment": (0.5, 1)}
            axes.add_artist(AnnotationBbox(picture, (graph.x[k], energies[k]), frameon=False, pad=0, **under))
            down -= PICTURE
            centred = {"textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 7}
            axes.annotate(f"{members[k]}", (graph.x[k], energies[k]), (0, down), **centred)
        low, high, right = energies.min(), joined[-1, 2], len(energies) - 0.4
        low, high = low - 0.25 * (high - low), high + 0.06 * (high - low)
        for name, level in levels.items():
            if low < level < high:
                axes.axhline(level, color="0.7", linewidth=0.8, linestyle=":", zorder=0)
                axes.annotate(f"mean of {name}", (-0.55, level), (0, 2), textcoords="offset points", fontsize=7, color="0.5")
        axes.set(xlim=(-0.6, right), ylim=(low, high), xticks=[], ylabel="energy")
        figure.suptitle(title, fontsize=10)
        axes.set_title("mean energies: " + ", ".join(f"{name} {level:.3g}" for name, level in levels.items()), fontsize=8, color="0.4")
        for side in ("top", "right", "bottom"):
            axes.spines[side].set_visible(False)
        with whole_file(path) as part:
            figure.savefig(part, format="png", dpi=130)
