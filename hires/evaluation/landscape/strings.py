"""Barriers: the highest energy on a path between two minima, and paths let down until it is as low as it gets."""

import torch
from torch import Tensor

from hires.evaluation.landscape.field import Field

FINE = 6  # points a piece of a path when its highest energy is looked for
LOOK_EVERY = 10  # steps between two looks at a path's highest energy
FARTHEST = 0.3  # of a piece's length that a point moves in a step
LONGER, SHORTER = 1.2, 0.5  # of a point's step while its slope keeps or turns its direction


def straight(a: Tensor, b: Tensor, points: int) -> Tensor:
    """Straight paths (P, points, d) between `a` and `b` (P, d), both ends included."""
    share = torch.linspace(0, 1, points, dtype=a.dtype, device=a.device)[:, None]
    return a[:, None] + share * (b - a)[:, None]


def respaced(path: Tensor, points: int) -> Tensor:
    """A path (n, d) as `points` points at equal distances along it (points, d), its ends kept."""
    along = torch.cat([path.new_zeros(1), torch.linalg.vector_norm(path.diff(dim=0), dim=1).cumsum(0)])
    at = torch.linspace(0, 1, points, dtype=path.dtype, device=path.device) * along[-1]
    right = torch.searchsorted(along, at).clamp(1, len(along) - 1)
    piece = (along[right] - along[right - 1]).clamp_min(1e-30)
    share = ((at - along[right - 1]) / piece).clamp(0, 1)[:, None]
    return torch.cat([path[:1], torch.lerp(path[right - 1], path[right], share)[1:-1], path[-1:]])


def highest(field: Field, paths: Tensor) -> tuple[Tensor, Tensor]:
    """The highest energies (P,) on paths (P, n, d) and where they are (P, d), looked for at FINE points a piece."""
    fine = [straight(paths[:, i], paths[:, i + 1], FINE + 1)[:, :-1] for i in range(paths.shape[1] - 1)]
    every = torch.cat([*fine, paths[:, -1:]], 1)
    u = field.value(every)
    top = torch.where(torch.isfinite(u), u, torch.inf).max(1)  # a place without an energy is no way through
    return top.values, every[torch.arange(len(paths), device=paths.device), top.indices]


@torch.no_grad()
def relax(field: Field, paths: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Paths (P, n, d), equally spaced, let down by `steps`: the best of each (P, n, d), its highest energy (P,) and where (P, d).

    The string method (E, Ren, Vanden-Eijnden, J. Chem. Phys. 126, 2007): every point between the ends goes down the slope across the
    path, then the points are spaced anew. Each point has its own step length, longer while its slope keeps its direction (as in
    resilient propagation). What is handed back is the lowest that was seen, so it is never above the path given; and as it is the
    highest energy on a real path, it is an upper bound of the barrier, but for the fineness of the look.
    """
    best, (top, where) = paths.clone(), highest(field, paths)
    x, move, before = paths.clone(), None, None
    for step in range(1, steps + 1):
        _, g = field.slope(x)
        ahead = torch.nn.functional.normalize(x[:, 2:] - x[:, :-2], dim=2)
        across = torch.nan_to_num(g[:, 1:-1])
        across = across - (across * ahead).sum(2, keepdim=True) * ahead
        piece = _norm(x.diff(dim=1)).mean(1, keepdim=True)
        if move is None:
            move = 0.1 * piece / _norm(across).clamp_min(1e-12)
        else:
            move = move * torch.where((across * before).sum(2) > 0, LONGER, SHORTER)
        move = torch.minimum(move, FARTHEST * piece / _norm(across).clamp_min(1e-12))
        before = across
        x[:, 1:-1] = field.project(x[:, 1:-1] - move[..., None] * across)
        x = torch.stack([respaced(path, x.shape[1]) for path in x])
        if step % LOOK_EVERY == 0 or step == steps:
            new, new_where = highest(field, x)
            lower = new < top
            best[lower], top[lower], where[lower] = x[lower], new[lower], new_where[lower]
    return best, top, where


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)
