"""How well the inference model and the generator together give an image back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hires.errors import HiresError
from hires.evaluation.material import Material, in_ranks

NEEDS = ("decode", "encode")
SHOWN = 16  # pairs of each kind on the sheet


@dataclass
class Config:
    """`measure=reconstruction`: settings reconstruction.…"""

    lpips: str = ""  # a TorchScript file: two batches (B, 3, r, r) in [-1, 1] -> distances (B, …); docs/reference/detection.md makes one


def check(settings) -> None:
    """Raises HiresError where the file of LPIPS is missing."""
    path = settings.reconstruction.lpips
    if path and not Path(path).is_file():
        raise HiresError(f"reconstruction.lpips={path}: no such file")


def measure(material: Material, settings) -> dict:
    """The error of held-out pictures given back from the mean code, as P1 and P2 report it; a sheet of the best, median and worst."""
    subject, path = material.subject, settings.reconstruction.lpips
    distance, x = load_distance(path, subject.device) if path else None, material.held_out()
    with torch.no_grad():
        each = in_ranks(len(x), material.at_once, lambda rows: errors(subject.decode, subject.encode, x[rows.start : rows.stop]))
    if not each.isfinite().all():
        wrong = int((~each.isfinite()).sum())
        raise HiresError(f"measure=reconstruction: {subject.name}: {wrong} reconstructions are not finite")
    mse = each.mean().item()
    found: dict = {"reconstruction_mse": mse, "reconstruction_rmse": mse**0.5, "reconstruction_pictures": len(x)}
    if distance:
        with torch.no_grad():
            apart = in_ranks(len(x), material.at_once, lambda rows: _apart(distance, subject, x[rows.start : rows.stop]))
        found["reconstruction_lpips"] = apart.mean().item()
    return found | material.picture("reconstruction_sheet", lambda path: _sheet(path, material, x, each, mse))


def lower(found: dict) -> float:
    """The error itself."""
    return found["reconstruction_mse"]


def errors(generate: Callable[[Tensor], Tensor], encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Mean over pixels of (x - clamp(G(mu(x)), -1, 1))^2 of each picture of x (B, C, r, r) in [-1, 1], on that scale: (B,) fp64, CPU.

    `encode` maps pictures to means (B, d), `generate` those to images. Raises HiresError where what is given back has another shape.
    """
    given_back = generate(encode(x)).clamp(-1, 1).cpu()
    if given_back.shape != x.shape:
        raise HiresError(f"reconstructions {tuple(given_back.shape)} and images {tuple(x.shape)} differ in size")
    return (given_back - x).double().square().mean((1, 2, 3))


def load_distance(path: str, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The TorchScript module in `path`, on `device`; raises HiresError where it is not one."""
    try:
        return torch.jit.load(path, map_location=device).eval()
    except (OSError, RuntimeError, ValueError) as error:
        raise HiresError(f"reconstruction.lpips={path}: not a TorchScript file ({str(error).strip().splitlines()[0]})") from error


def _apart(distance: Callable[[Tensor, Tensor], Tensor], subject, x: Tensor) -> Tensor:
    """The distance (B,) of pictures from what is given back; grey ones as equal colours."""
    pairs = (part.to(subject.device).expand(-1, 3, -1, -1) for part in (x, subject.decode(subject.encode(x)).clamp(-1, 1)))
    try:
        return distance(*pairs).flatten(1).mean(1).double().cpu()
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
