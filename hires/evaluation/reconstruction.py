"""How well the inference model and the generator together give an image back: by pixels, and by a network's features."""

from collections.abc import Callable
from dataclasses import dataclass
import math
from pathlib import Path

import torch
from torch import Tensor
import torch.distributed as dist
import torch.nn.functional as F

from hires.errors import HiresError
from hires.evaluation import fidelity
from hires.evaluation.feature_networks import FeatureNetwork
from hires.evaluation.inception import NO_WEIGHTS
from hires.evaluation.material import Material, as_pictures, in_ranks
from hires.evaluation.reference import reference, require_finite, user_cache
from hires.ground.distributed import from_first

NEEDS = ("decode", "encode")
SHOWN = 16  # pairs of each kind on the sheet
ROWS = 1000  # pictures that are compared with all others at once


@dataclass
class Config:
    """`measure=reconstruction`: settings reconstruction.…"""

    features: bool = False  # compare them in the features of metrics.features too
    lpips: str = ""  # a TorchScript file: two batches (B, 3, r, r) in [-1, 1] -> distances (B, …); docs/reference/detection.md makes one


def check(settings) -> None:
    """Raises HiresError where the file of LPIPS, or the network of features, is missing."""
    path = settings.reconstruction.lpips
    if settings.reconstruction.features:
        fidelity.check_network(settings.metrics)
    if path and not Path(path).is_file():
        raise HiresError(f"reconstruction.lpips={path}: no such file")


def measure(material: Material, settings) -> dict:
    """The error of held-out pictures given back from the mean code, as P1 and P2 report it; a sheet of the best, median and worst.

    With reconstruction.features also how near their features are, and how many of N are found again among the N by them (chance: 1 / N).
    """
    subject, path = material.subject, settings.reconstruction.lpips
    distance, x = load_distance(path, subject.device) if path else None, material.held_out()
    cache = user_cache(settings.metrics.cache)
    network = fidelity.opened(settings.metrics, material, cache) if settings.reconstruction.features else None
    if settings.reconstruction.features and network is None:
        raise HiresError(f"reconstruction.features=true: {NO_WEIGHTS}")

    def compared(rows: range) -> Tensor:
        """(B, 1 + 1 + D): the error, the distance and the features, as far as they are wanted."""
        part = x[rows.start : rows.stop]
        back = _given_back(subject.decode, subject.encode, part)
        columns = [_squared(part, back)[:, None]]
        if distance:
            columns.append(_apart(distance, part.to(subject.device), back.to(subject.device))[:, None])
        if network:
            columns.append(network.of(as_pictures(back)).double().cpu())
        return torch.cat(columns, 1)

    with torch.no_grad():
        table = in_ranks(len(x), material.at_once, compared)
    each = table[:, 0]
    if not each.isfinite().all():
        wrong = int((~each.isfinite()).sum())
        raise HiresError(f"measure=reconstruction: {subject.name}: {wrong} reconstructions are not finite")
    mse = each.mean().item()
    found: dict = {"reconstruction_mse": mse, "reconstruction_rmse": mse**0.5, "reconstruction_pictures": len(x)}
    if distance:
        found["reconstruction_lpips"] = table[:, 1].mean().item()
    if network:
        seen = require_finite(table[:, 1 + bool(distance) :], network, "reconstructions")
        found |= _by_features(material, network, seen, cache)
    return found | material.picture("reconstruction_sheet", lambda path: _sheet(path, material, x, each, mse))


def lower(found: dict) -> float:
    """The error itself."""
    return found["reconstruction_mse"]


def _by_features(material: Material, network: FeatureNetwork, seen: Tensor, cache: Path) -> dict[str, float]:
    """`likeness` of held-out pictures and of what is given back for them, whose features (N, D + classes) are `seen`; on every rank."""
    real, _ = reference(material, network, "holdout", len(seen), cache)  # what the cache had is on the first rank alone
    found = likeness(real, seen, network.classes) if material.first else {}
    found = {f"reconstruction_{key}_{network.name}": value for key, value in found.items()}
    return from_first(found) if dist.is_initialized() else found


def likeness(real: Tensor, given_back: Tensor, classes: int = 0) -> dict[str, float]:
    """Of features (N, D + classes) of pictures and of what is given back for them: the mean cosine of a pair, and the share found again.

    The mean of the pictures is taken off first, for what all faces share is no likeness. Found again: every other picture's is lower.
    """
    real, given_back = (features[:, : features.shape[1] - classes].double() for features in (real, given_back))
    real, given_back = (F.normalize(features - real.mean(0), dim=1) for features in (real, given_back))
    own, found = (real * given_back).sum(1), 0
    for rows in torch.arange(len(real)).split(ROWS):  # N x N cosines would fill the memory
        cosines = given_back[rows] @ real.T
        cosines[range(len(rows)), rows] = -math.inf
        found += int((own[rows] > cosines.amax(1)).sum())
    return {"cosine": own.mean().item(), "found": found / len(real)}


def errors(generate: Callable[[Tensor], Tensor], encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Mean over pixels of (x - clamp(G(mu(x)), -1, 1))^2 of each picture of x (B, C, r, r) in [-1, 1], on that scale: (B,) fp64, CPU.

    `encode` maps pictures to means (B, d), `generate` those to images. Raises HiresError where what is given back has another shape.
    """
    return _squared(x, _given_back(generate, encode, x))


def _given_back(generate: Callable[[Tensor], Tensor], encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    found = generate(encode(x)).clamp(-1, 1).cpu()
    if found.shape != x.shape:
        raise HiresError(f"reconstructions {tuple(found.shape)} and images {tuple(x.shape)} differ in size")
    return found


def _squared(x: Tensor, given_back: Tensor) -> Tensor:
    return (given_back - x).double().square().mean((1, 2, 3))


def load_distance(path: str, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The TorchScript module in `path`, on `device`; raises HiresError where it is not one."""
    try:
        return torch.jit.load(path, map_location=device).eval()
    except (OSError, RuntimeError, ValueError) as error:
        raise HiresError(f"reconstruction.lpips={path}: not a TorchScript file ({str(error).strip().splitlines()[0]})") from error


def _apart(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, given_back: Tensor) -> Tensor:
    """The distance (B,) of pictures from what is given back; grey ones as equal colours."""
    try:
        return distance(*(part.expand(-1, 3, -1, -1) for part in (x, given_back))).flatten(1).mean(1).double().cpu()
    except (RuntimeError, IndexError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise HiresError(f"reconstruction.lpips: it does not take pictures of {x.shape[-1]}x{x.shape[-1]} ({reason})") from error


@torch.no_grad()
def _sheet(path: Path, material: Material, x: Tensor, each: Tensor, mse: float) -> None:
    """The best, those around the median and the worst, originals beside what is given back."""
    from hires.media.sheets import save_sheet

    order, count = each.argsort(), min(SHOWN, len(each) // 3 or 1)
    middle = (len(order) - count) // 2
    picks = torch.cat([order[:count], order[middle : middle + count], order[len(order) - count :]])
    subject, kinds = material.subject, ["best"] * count + ["median"] * count + ["worst"] * count
    given_back = torch.cat([subject.decode(subject.encode(part)).clamp(-1, 1).cpu() for part in x[picks].split(material.at_once)])
    captions = [f"{kind} {error**0.5:.3f}" for kind, error in zip(kinds, each[picks].tolist(), strict=True)]
    title = f"{subject.name}: {len(each)} held-out pictures, rmse {mse**0.5:.4f} on [-1, 1]; below each pair its own"
    columns = next(n for n in (8, 4, 2, 1) if count % n == 0 or n == 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    strips = torch.stack([x[picks], given_back], 1)
    save_sheet(path, strips, captions, ["original", "given back"], title, columns)
