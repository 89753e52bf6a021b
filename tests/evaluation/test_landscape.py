"""Landscapes whose minima and barriers are known: by formula, or by flooding a fine grid."""

from itertools import combinations
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.cluster.hierarchy import cophenet
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import squareform
import torch
from torch import Tensor

from hires.errors import HiresError
from hires.evaluation.landscape import Config, Landscape, search
from hires.evaluation.landscape.basins import basins, between, tree, worth_walking
from hires.evaluation.landscape.descent import descend
from hires.evaluation.landscape.field import Field, in_ball, in_box
from hires.evaluation.landscape.strings import highest, relax, straight
from hires.evaluation.landscape.work import Work


def mueller_brown(x: Tensor) -> Tensor:
    """Theor. Chim. Acta 53, 1979: the potential that saddle searches are tried on."""
    terms = [(-200, -1, 0, -10, 1, 0), (-100, -1, 0, -10, 0, 0.5), (-170, -6.5, 11, -6.5, -0.5, 1.5), (15, 0.7, 0.6, 0.7, -1, 1)]
    a, b = x.T
    return sum(A * torch.exp(p * (a - x0) ** 2 + q * (a - x0) * (b - y0) + r * (b - y0) ** 2) for A, p, q, r, x0, y0 in terms)


def double_well(d: int, height: float = 5.0, hill: float = 10.0):
    """Two minima of energy 0 in a bent valley; the barrier is `height`, `hill` more on the straight line; (energy, minima)."""
    seeded = torch.Generator().manual_seed(d)
    turned = torch.linalg.qr(torch.randn(d, d, generator=seeded, dtype=torch.float64))[0]
    bend = torch.randn(d - 1, generator=seeded, dtype=torch.float64)
    bend *= math.sqrt(2 * hill / 20) / bend.norm()

    def energy(x: Tensor) -> Tensor:
        y = x @ turned
        return height * (y[:, 0] ** 2 - 1) ** 2 + 10 * (y[:, 1:] - bend * (y[:, :1] ** 2 - 1)).square().sum(1)

    return energy, torch.stack([turned[:, 0], -turned[:, 0]])


def mixture(x: Tensor) -> Tensor:
    """-log of six Gaussians of different weights and widths in the plane."""
    centres = torch.tensor([[-2.0, -1.5], [1.8, -1.6], [0.2, 0.1], [-1.4, 1.8], [2.1, 1.4], [-2.6, 0.4]], dtype=x.dtype)
    sd = torch.tensor([0.5, 0.7, 0.45, 0.6, 0.5, 0.35], dtype=x.dtype)
    weight = torch.tensor([0.25, 0.2, 0.1, 0.2, 0.15, 0.1], dtype=x.dtype)
    squares = (x[:, None] - centres).square().sum(2)
    return -torch.logsumexp(weight.log() - 2 * sd.log() - squares / (2 * sd**2), 1)


def two_ways(x: Tensor) -> Tensor:
    """A round valley about a hill: the line over the hill slides down to the higher of the two passes."""
    a, b = x.T
    tilt = 2 * b * torch.exp(-5 * (a**2 + b**2))  # of the hill alone
    return 20 * (a**2 + b**2 - 1) ** 2 + 2 * (1 - a**2) + 2 * torch.exp(-10 * (a**2 + (b - 1) ** 2)) - tilt


def flooded(energy, x: tuple[float, float], y: tuple[float, float], depth: float, steps: int = 300) -> tuple[list[float], list[float]]:
    """By rising water on a grid: the minima that lie at least `depth` under their pass, and the heights at which pools join."""
    grid = torch.cartesian_prod(torch.linspace(*x, steps, dtype=torch.float64), torch.linspace(*y, steps, dtype=torch.float64))
    u = energy(grid).numpy()
    pool, floor, joins = np.full(len(u), -1), {}, []

    def find(k: int) -> int:
        while pool[k] != k:
            pool[k] = k = pool[pool[k]]
        return k

    for k in np.argsort(u):
        i, j = divmod(k, steps)
        beside = [(i + di) * steps + j + dj for di in (-1, 0, 1) for dj in (-1, 0, 1) if 0 <= i + di < steps and 0 <= j + dj < steps]
        wet = {find(n) for n in beside if pool[n] >= 0}
        pool[k] = k
        if not wet:
            floor[k] = u[k]
            continue
        deepest, *others = sorted(wet, key=floor.get)
        pool[k] = deepest
        for other in others:
            pool[other] = deepest
            if u[k] - floor[other] >= depth:
                joins.append((u[k], floor[other]))
    minima = [u.min(), *(low for _, low in joins)]
    return sorted(minima), sorted(height for height, _ in joins)


def explore(tmp_path: Path, energy, start, **settings) -> Landscape:
    return search(Field(energy), start, Config(**settings), Work(tmp_path))


def uniform(x: tuple[float, float], y: tuple[float, float]):
    low, high = torch.tensor([x, y], dtype=torch.float64).T
    return lambda i: low + (high - low) * torch.rand(2, generator=torch.Generator().manual_seed(i), dtype=torch.float64)


def joins(found: Landscape) -> list[float]:
    return sorted(tree(found.floors, between(found.barriers, found.basin))[:, 2])


def test_mueller_brown(tmp_path):
    found = explore(tmp_path, mueller_brown, uniform((-1.5, 0.9), (-0.3, 1.9)), starts=20, depth=2.0, walks=1)
    at = found.minima[found.floors]
    published = torch.tensor([[-0.5582, 1.4417], [0.6235, 0.0280], [-0.0500, 0.4667]], dtype=torch.float64)
    assert torch.allclose(at, published, atol=0.01)
    assert found.energies[found.floors].tolist() == pytest.approx([-146.700, -108.167, -80.768], rel=1e-4)
    # five per cent of a barrier's height over the higher of the minima that it divides, 67.5 and 8.5
    low, high = joins(found)
    assert low == pytest.approx(-72.249, abs=0.05 * 8.5) and high == pytest.approx(-40.665, abs=0.05 * 67.5)


@pytest.mark.parametrize("d", [2, 20])
def test_double_well(tmp_path, d):
    energy, minima = double_well(d)
    found = explore(tmp_path, energy, lambda i: torch.randn(d, generator=torch.Generator().manual_seed(i)).double(), starts=12, depth=1.0)
    assert highest(Field(energy), straight(minima[:1], minima[1:], 16))[0].item() == pytest.approx(
        15
    )  # what has to be found is not the line
    a, b = found.minima[found.floors]
    assert min(torch.dist(a, minima[k]) + torch.dist(b, minima[1 - k]) for k in (0, 1)) < 0.01
    assert found.energies.max() < 0.01 and joins(found) == pytest.approx([5.0], rel=0.05)


def test_mixture_of_gaussians(tmp_path):
    box = (-4.0, 4.0), (-3.0, 3.5)
    minima, heights = flooded(mixture, *box, depth=0.2)
    found = explore(tmp_path, mixture, uniform(*box), starts=32, depth=0.2, walks=1)
    assert len(minima) >= 5
    assert found.energies[found.floors].tolist() == pytest.approx(minima, abs=0.01)
    assert joins(found) == pytest.approx(heights, rel=0.05)


def test_walks_find_the_lower_of_two_passes(tmp_path):
    _, (low,) = flooded(two_ways, (-1.5, 1.5), (-1.5, 1.5), depth=0.5, steps=200)
    start = uniform((-1.3, 1.3), (-0.3, 0.3))
    (lines_alone,) = joins(explore(tmp_path / "a", two_ways, start, starts=8, depth=0.5, walks=0))
    (walked,) = joins(explore(tmp_path / "b", two_ways, start, starts=8, depth=0.5, walks=3))
    assert lines_alone > 1.5 * low and walked == pytest.approx(low, rel=0.05)


def test_descent_stays_in_its_region():
    slope = torch.tensor([3.0, 4.0])
    starts = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    ends, energies, _ = descend(Field(lambda x: x @ slope, in_ball(2.0)), starts, 200, 1e-6)
    assert torch.allclose(ends, torch.tensor([-1.2, -1.6]).expand(5, 2), atol=1e-3) and torch.allclose(energies, torch.tensor(-10.0))
    ends, *_ = descend(Field(lambda x: x @ slope, in_box(1.0)), starts, 200, 1e-6)
    assert torch.allclose(ends, torch.tensor(-1.0))


def test_a_descent_never_goes_up():
    starts = torch.stack([uniform((-1.5, 0.9), (-0.3, 1.9))(i) for i in range(20)])
    energies = torch.stack([descend(Field(mueller_brown), starts, steps, 1e-6)[1] for steps in range(1, 20)])
    assert (energies.diff(dim=0) <= 0).all() and (energies[0] < mueller_brown(starts)).any()


def test_a_path_is_never_made_worse():
    seeded = torch.Generator().manual_seed(0)
    waves, ends = 9 * torch.randn(2, 12, generator=seeded), torch.rand(2, 30, 2, generator=seeded)
    rough = Field(lambda x: (x @ waves).cos().sum(1))  # hills that five points cannot see
    paths = straight(*ends, 5)
    before, _ = highest(rough, paths)
    relaxed, after, where = relax(rough, paths, 30)
    assert (after <= before).all() and (after < before).sum() > 10
    assert torch.equal(highest(rough, relaxed)[0], after) and torch.allclose(rough.value(where), after)


def test_basins_by_depth():
    energies = torch.tensor([0.0, 1.0, 2.0, 2.5])
    barriers = {(0, 1): 5.0, (1, 2): 2.4, (0, 3): 9.0}
    assert basins(energies, barriers, 0.5) == [0, 1, 1, 3]
    assert basins(energies, barriers, 0.3) == [0, 1, 2, 3]
    assert basins(energies, barriers, 4.5) == [0, 0, 0, 3]
    assert between(barriers, [0, 1, 1, 3]) == {(0, 1): 5.0, (0, 3): 9.0}


def test_tree_joins_where_the_lowest_chain_of_barriers_does():
    n = 12
    heights = np.random.default_rng(0).uniform(-3, 3, (n, n))
    barriers = {(i, j): heights[i, j] for i, j in combinations(range(n), 2) if (i + j) % 3}
    spanning = minimum_spanning_tree(squareform([barriers.get(pair, 99) + 10 for pair in combinations(range(n), 2)])).toarray()
    paths = np.where(spanning > 0, spanning, np.inf)
    paths = np.minimum(paths, paths.T)
    for k in range(n):  # the minimax path between all pairs, through each third
        paths = np.minimum(paths, np.maximum(paths[:, k, None], paths[None, k]))
    joined = tree(list(range(n)), barriers)
    shifted = joined.copy()
    shifted[:, 2] += 10
    assert np.allclose(squareform(cophenet(shifted)), paths - np.diag(np.diag(paths)))
    assert {pair for pair in worth_walking(barriers, 1)} >= {tuple(sorted(pair)) for pair in np.argwhere(spanning > 0).tolist()}
    with pytest.raises(HiresError, match="not known between all"):
        tree([0, 1, 2], {(0, 1): 1.0})


def test_an_energy_that_is_no_number():
    with pytest.raises(HiresError, match="not finite at a start"):
        descend(Field(lambda x: x.sum(1).log()), -torch.ones(3, 2), 10, 1e-6)
    with pytest.raises(HiresError, match=r"landscape\.depth=-1"):
        search(Field(mixture), lambda i: torch.zeros(2), Config(depth=-1), Work(Path()))
