"""The search as a whole: minima from many starts, lines between neighbours, walks and paths between basins."""

from collections.abc import Callable
from dataclasses import dataclass
import itertools

import torch
from torch import Tensor

from hires.evaluation.landscape.basins import Barriers, basins, worth_walking
from hires.evaluation.landscape.descent import descend
from hires.evaluation.landscape.diffusion import attract
from hires.evaluation.landscape.field import Field
from hires.evaluation.landscape.strings import relax, respaced, straight
from hires.evaluation.landscape.work import Piece, Work
from hires.ground.noise import generator
from hires.ground.ranges import check_ranges, setting

STARTS_A_PIECE, LINES_A_PIECE, PAIRS_A_PIECE = 32, 256, 4  # the same for any number of processes, so that sums are the same too
LINE = 16  # points on a straight line
NEAR = 10  # neighbours that a minimum is compared with by straight lines
TENTH = 0.1  # of the spread of the energies at the starts: the depth where none is given
TOLERANCE = 1e-2  # of that depth: a descent that gains less in 30 steps has ended
STRONGEST, WEAKER, RUNGS = 1.5, 1.5, 8  # pull over the steepest slope on the line, its fall from rung to rung, rungs at most
COLD = 0.02  # thermal energy of a walk, T times d, as a share of the barrier on the line
WALK = 1000  # steps of a walk at most


@dataclass
class Config:
    """`measure=landscape`: settings landscape.…"""

    space: str = setting("latent", among=("latent", "pixel"))  # latent: U(G(z)) over latents | pixel: U(x) over pictures
    starts: int = setting(200, at_least=2)  # descents
    # least depth of a basin below its barrier; null: a tenth of the standard deviation at the starts
    depth: float | None = setting(None, above=0)
    leaves: int = setting(40, at_least=2)  # most basins between which barriers are sought: those in which most descents ended
    neighbours: int = setting(3, at_least=1)  # lowest lines from each basin that are relaxed, beside a tree of lines that joins all
    walks: int = setting(3, at_least=0)  # attraction-diffusion walks in each direction and at each strength
    steps: int = setting(1000, at_least=1)  # of a descent, at most
    points: int = setting(16, at_least=3)  # of a path
    relax: int = setting(80, at_least=0)  # steps by which a path is relaxed
    seed: int = setting(0, at_least=0, below=2**31, wanted="at least 0 and below 2^31")


@dataclass
class Landscape:
    """What was found; minima are numbered by rising energy, floors are the lowest minima of basins."""

    minima: Tensor  # (S, d), one a start
    energies: Tensor  # (S,)
    slopes: Tensor  # (S,) |dU/dx| at the minima
    start_energies: Tensor  # (S,)
    depth: float
    basin: list[int]  # of each minimum its basin's floor
    floors: list[int]  # of the basins that barriers were looked for between
    barriers: Barriers  # highest energies between floors, as low as was found
    paths: dict[tuple[int, int], Tensor]  # (n, d), of the pairs that were looked at closely


def check(config: Config) -> None:
    """Raise HiresError for a value that means nothing."""
    check_ranges(config, "landscape.")


def search(field: Field, start: Callable[[int], Tensor], config: Config, work: Work) -> Landscape:
    """The landscape of a field; `start(i)` gives the i-th start (d,), the same on every process.

    The result is a function of the field, the starts and the configuration, whatever the number of processes. Raises HiresError.
    """
    check(config)
    found = work.do("minima", -(-config.starts // STARTS_A_PIECE), lambda i: _descents(field, start, config, i))
    at = {name: torch.cat([piece[name] for piece in found]) for name in found[0]}
    # energies of fp32 networks differ between equal minima in their last digits: the order is by energy, then by number
    order = torch.sort(at["energies"], stable=True).indices
    x, u, slopes = at["minima"][order], at["energies"][order], at["slopes"][order]
    depth = config.depth or TENTH * at["start_energies"].double().std().item()
    lines, basin = _neighbours(field, x, u, depth, work)
    floors = sorted(set(basin), key=lambda k: (-basin.count(k), k))[: config.leaves]
    lines |= _lines(field, x, _unknown(floors, lines), "lines-all", work)
    pairs = worth_walking({pair: lines[pair] for pair in _pairs(floors)}, config.neighbours)
    pieces = work.do(
        "barriers",
        -(-len(pairs) // PAIRS_A_PIECE),
        lambda i: _closely(field, x, u, depth, pairs[i * PAIRS_A_PIECE : (i + 1) * PAIRS_A_PIECE], config),
    )
    tops = torch.cat([piece["tops"] for piece in pieces]).tolist() if pieces else []
    ways = torch.cat([piece["paths"] for piece in pieces]) if pieces else []
    barriers = lines | dict(zip(pairs, tops, strict=True))
    basin = basins(u, barriers, depth)
    floors = sorted({basin[k] for k in floors})
    barriers |= _lines(field, x, _unknown(floors, barriers), "lines-end", work)  # of a floor that was none before, should there be one
    return Landscape(x, u, slopes, at["start_energies"], depth, basin, floors, barriers, dict(zip(pairs, ways, strict=True)))


def _pairs(floors: list[int]) -> list[tuple[int, int]]:
    return list(itertools.combinations(sorted(floors), 2))


def _unknown(floors: list[int], known: Barriers) -> list[tuple[int, int]]:
    return [pair for pair in _pairs(floors) if pair not in known]


def _descents(field: Field, start: Callable[[int], Tensor], config: Config, i: int) -> Piece:
    """One piece of starts and where they end; how exact a descent must be follows from the spread of this piece's energies."""
    numbers = range(i * STARTS_A_PIECE, min((i + 1) * STARTS_A_PIECE, config.starts))
    starts = field.project(torch.stack([start(n) for n in numbers]))
    before = field.value(starts)
    depth = config.depth or TENTH * before.double().std(correction=0).item()
    minima, energies, steps = descend(field, starts, config.steps, TOLERANCE * depth)
    slopes = torch.linalg.vector_norm(field.slope(minima)[1], dim=1)
    return {"minima": minima, "energies": energies, "slopes": slopes, "start_energies": before, "steps": steps}


def _neighbours(field: Field, x: Tensor, u: Tensor, depth: float, work: Work) -> tuple[Barriers, list[int]]:
    """Straight lines between near minima until no neighbours are left that they join: all lines seen, and each minimum's basin.

    A line is a real path, so a low one proves that two minima are of one basin; a high one proves nothing.
    """
    lines: Barriers = {}
    basin = list(range(len(x)))
    turn = itertools.count()
    while new := [pair for pair in _near(x, sorted(set(basin))) if pair not in lines]:
        lines |= _lines(field, x, new, f"lines-{next(turn)}", work)
        basin = basins(u, lines, depth)
    return lines, basin


def _near(x: Tensor, numbers: list[int]) -> list[tuple[int, int]]:
    """Pairs of each of these minima with its NEAR nearest."""
    points = x[numbers].double()
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    nearest = torch.sort(distances, dim=1, stable=True).indices[:, : min(NEAR, len(numbers) - 1)].tolist()
    return sorted({tuple(sorted((numbers[i], numbers[j]))) for i, others in enumerate(nearest) for j in others})


def _lines(field: Field, x: Tensor, pairs: list[tuple[int, int]], stage: str, work: Work) -> Barriers:
    def piece(i: int) -> Piece:
        part = torch.tensor(pairs[i * LINES_A_PIECE : (i + 1) * LINES_A_PIECE])
        u = field.value(straight(x[part[:, 0]], x[part[:, 1]], LINE))
        return {"tops": torch.where(torch.isfinite(u), u, torch.inf).amax(1).double()}

    tops = [top for piece in work.do(stage, -(-len(pairs) // LINES_A_PIECE), piece) for top in piece["tops"].tolist()]
    return dict(zip(pairs, tops, strict=True))


def _closely(field: Field, x: Tensor, u: Tensor, depth: float, pairs: list[tuple[int, int]], config: Config) -> Piece:
    """The lowest path between the ends of each pair: the line and the best walk, both let down."""
    ends = torch.tensor(pairs)
    a, b = x[ends[:, 0]], x[ends[:, 1]]
    lines = straight(a, b, config.points)
    walked = _walks(field, lines, depth, pairs, config)
    candidates = torch.cat([lines, *[path[None] for _, path in walked]])
    paths, tops, _ = relax(field, candidates, config.relax)
    best, tops = paths[: len(pairs)].clone(), tops.double()
    lowest = torch.maximum(tops[: len(pairs)], u[ends].amax(1).double())
    for k, (i, _) in enumerate(walked, start=len(pairs)):
        if tops[k] < lowest[i]:
            best[i], lowest[i] = paths[k], torch.maximum(tops[k], u[ends[i]].amax().double())
    return {"tops": lowest, "paths": best}


def _walks(field: Field, lines: Tensor, depth: float, pairs: list[tuple[int, int]], config: Config) -> list[tuple[int, Tensor]]:
    """(pair, path) of the walk with the lowest highest energy between the ends of each pair, in either direction, where one arrived.

    The pull begins above the steepest slope on the line, where a walk does little but follow it, and falls until no walk arrives: the
    weaker the pull, the lower the pass that a walk needs.
    """
    u = field.value(lines)
    d, piece = lines.shape[2], torch.linalg.vector_norm(lines[:, 1] - lines[:, 0], dim=1).clamp_min(1e-12)
    # the two directions of pair i are the rows 2 i and 2 i + 1
    rise = torch.stack([u.diff(dim=1).amax(1), (-u.diff(dim=1)).amax(1)], 1).flatten() / piece.repeat_interleave(2)
    over = (u.amax(1) - torch.maximum(u[:, 0], u[:, -1])).clamp_min(depth).repeat_interleave(2)
    starts, targets = torch.stack([lines[:, 0], lines[:, -1]], 1).flatten(0, 1), torch.stack([lines[:, -1], lines[:, 0]], 1).flatten(0, 1)
    temperature = COLD * over / d
    rise = torch.maximum(rise, over / (piece.repeat_interleave(2) * config.points))
    best: dict[int, tuple[float, Tensor]] = {}
    going = list(range(len(starts)))
    for rung in range(RUNGS if config.walks else 0):
        rows = [k for k in going for _ in range(config.walks)]
        noise = [generator(config.seed, f"landscape walk {pairs[k // 2]} {k % 2} {n % config.walks}", rung) for n, k in enumerate(rows)]
        pull = STRONGEST * rise / WEAKER**rung / temperature
        arrived, tops, ways = attract(field, starts[rows], targets[rows], temperature[rows], pull[rows], noise, WALK)
        for n, k in enumerate(rows):
            if arrived[n] and tops[n].item() < best.get(k // 2, (torch.inf,))[0]:
                way = ways[n] if k % 2 == 0 else ways[n].flip(0)
                best[k // 2] = tops[n].item(), respaced(way, config.points)
        going = [k for k in going if any(arrived[n] for n, row in enumerate(rows) if row == k)]
        if not going:
            break
    return [(i, path) for i, (_, path) in sorted(best.items())]
