"""Basins: minima that no barrier worth the name divides, and the tree of the barriers between them."""

import numpy as np
from torch import Tensor

from hires.errors import HiresError

Barriers = dict[tuple[int, int], float]  # pairs of minima (i < j) and the highest energy between them


def basins(energies: Tensor, barriers: Barriers, depth: float) -> list[int]:
    """For each minimum (N,) the lowest minimum of its basin.

    Barriers are crossed from the lowest to the highest; a valley whose floor lies less than `depth` below the barrier that first joins
    it to a lower one is no basin of its own, its minima go to the basin on the other side of that barrier. That is topological
    persistence: the threshold of P1 §4.3, and it does not depend on the order in which minima were found.
    """
    floor = list(range(len(energies)))  # of a joined region: its lowest minimum, by union and find
    basin = list(range(len(energies)))  # of a minimum: the next one in the same basin, down to the lowest

    def root(links: list[int], i: int) -> int:
        while links[i] != i:
            links[i] = i = links[links[i]]
        return i

    for (i, j), height in sorted(barriers.items(), key=lambda item: (item[1], item[0])):
        a, b = root(floor, i), root(floor, j)
        if a == b:
            continue
        (low, beside), (high, _) = sorted([(a, i), (b, j)], key=lambda side: (float(energies[side[0]]), side[0]))
        if height - float(energies[high]) < depth:
            basin[root(basin, high)] = root(basin, beside)
        floor[high] = low
    return [root(basin, i) for i in range(len(energies))]


def between(barriers: Barriers, basin: list[int]) -> Barriers:
    """The lowest barriers between basins, by their lowest minima."""
    found: Barriers = {}
    for (i, j), height in barriers.items():
        a, b = sorted((basin[i], basin[j]))
        if a != b:
            found[a, b] = min(height, found.get((a, b), np.inf))
    return found


def worth_walking(lines: Barriers, neighbours: int) -> list[tuple[int, int]]:
    """Pairs whose barrier is looked at closely: a tree that joins all by the lowest of `lines`, and each one's `neighbours` lowest."""
    chosen, part = set(), {i: i for pair in lines for i in pair}
    count = dict.fromkeys(part, 0)

    def root(i: int) -> int:
        while part[i] != i:
            part[i] = i = part[part[i]]
        return i

    for (i, j), _ in sorted(lines.items(), key=lambda item: (item[1], item[0])):
        joins = root(i) != root(j)
        if joins:
            part[root(i)] = root(j)
        if joins or min(count[i], count[j]) < neighbours:
            chosen.add((i, j))
            count[i], count[j] = count[i] + 1, count[j] + 1
    return sorted(chosen)


def tree(floors: list[int], barriers: Barriers) -> np.ndarray:
    """Single linkage of basins by their barriers, as scipy's linkage matrix (N - 1, 4): leaf k is floors[k], heights are energies.

    Raises HiresError where no chain of barriers joins them all, or for fewer than 2 basins.
    """
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    if len(floors) < 2:
        raise HiresError("landscape: 1 basin has no tree; wanted 2 or more (a smaller landscape.depth finds more)")
    place = {floor: k for k, floor in enumerate(floors)}
    known = {(place[a], place[b]): height for (a, b), height in barriers.items()}
    base = min(known.values(), default=0.0)  # linkage wants distances from 0 up
    far = max(known.values(), default=0.0) - base + 1
    matrix = np.full((len(floors), len(floors)), far)
    for (a, b), height in known.items():
        matrix[a, b] = matrix[b, a] = height - base
    np.fill_diagonal(matrix, 0)
    joined = linkage(squareform(matrix, checks=False), "single")
    if joined[-1, 2] >= far:
        raise HiresError("landscape: barriers are not known between all basins")
    joined[:, 2] += base
    return joined
