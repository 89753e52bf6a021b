"""Pictures from elsewhere: how well each score of a system tells them from held-out pictures of its own data (P2 §5.3, P4's OOD tables).

What tells two sets apart may be how they were made rather than what they show, so the table says what was done to each. Other pictures are
prepared as `hires prepare` does it: the centre square, by Lanczos and box means to the level.
"""

from collections.abc import Iterator
from dataclasses import dataclass
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hires.errors import HiresError
from hires.evaluation.material import Material, as_pictures, in_ranks
from hires.evaluation.outliers import Score, all_scores, draw_histograms, named, rates_with_intervals, scores_of
from hires.media.pictures import is_prepared, list_pictures, picture_batches
from hires.networks.growing import fade_images

NEEDS = ()
FEWEST = 10  # pictures of a set
SYNTHETIC = {  # P2's: name -> what it is
    "uniform": "every value of its own, uniform on [-1, 1]",
    "constant": "pictures of one colour, each channel uniform on [-1, 1]",
}
COLUMNS = "[AUROC] [AUPRC] [FPR at 95 % TPR], each with its 95 % interval (bootstrap)"


@dataclass
class Config:
    """`measure=detection`: settings detection.…"""

    against: str = "uniform,constant"  # uniform | constant | NAME:PLACE, a folder of pictures or prepared data; separated by commas


def check(settings) -> None:
    """Raises HiresError for a set that is neither known nor a place."""
    places(settings.detection.against)


def measure(material: Material, settings) -> dict:
    """Each score's rates on held-out pictures against training pictures, which should be 0.5, and each other set; and a histogram."""
    subject, scores = material.subject, scores_of(material.subject)
    others = places(settings.detection.against)
    usual = material.held_out()
    sets, told = {"held out": _scored(material, scores, usual, "held-out pictures")}, {}
    for name, x, what in strange_sets(material, others, len(usual)):
        sets[name] = _scored(material, scores, x, f"detection.against={name}")
        told[f"detection_{name}"] = f"{len(x)} against {len(usual)} held-out pictures: {what}"
    found: dict[str, Any] = {"detection_columns": COLUMNS} | told
    for name, values in list(sets.items())[1:]:
        for score in scores:
            found[f"detection_{score}_{name}"] = rates_with_intervals(sets["held out"][score], values[score])
    title = f"{subject.name} at {subject.resolution}x{subject.resolution}"
    return found | material.picture("detection_histogram", lambda path: draw_histograms(path, sets, title))


def lower(found: dict) -> float | None:
    """The mean over the other sets of 1 - AUROC by the energy, or by the reconstruction where there is none."""
    for score in ("pair_energy", "energy", "reconstruction"):
        own = f"detection_{score}_"
        areas = [value[0][0] for key, value in found.items() if key.startswith(own) and isinstance(value, list) and key != f"{own}train"]
        if areas:
            return 1 - sum(areas) / len(areas)
    return None


def places(against: str) -> dict[str, str]:
    """Names of sets and where they lie, '' for synthetic ones; raises HiresError in one line for what is neither, or holds no picture."""
    found: dict[str, str] = {}
    for part in against.split(","):
        name, colon, place = (os.path.expanduser(piece.strip()) for piece in part.partition(":"))
        if not colon and name not in SYNTHETIC:
            raise HiresError(f"detection.against={part}: wanted {', '.join(SYNTHETIC)}, or NAME:PLACE, such as textures:data/dtd")
        if not name.isidentifier() or name in found or name == "train" or (colon and (not place or name in SYNTHETIC)):
            raise HiresError(f"detection.against={part}: wanted a name of its own, letters and digits, and a place behind the colon")
        if place and not is_prepared(place):
            try:
                list_pictures(place)
            except HiresError as error:
                raise HiresError(f"detection.against={part}: {error}") from error
        found[name] = place
    return found


def strange_sets(material: Material, others: dict[str, str], count: int) -> Iterator[tuple[str, Tensor, str]]:
    """(name, pictures (N, C, r, r), what they are) of the training pictures and the others, at most `count` each."""
    shape = material.subject.channels, material.subject.resolution, material.subject.resolution
    yield "train", material.train(), "pictures trained on, prepared alike; 0.5 where nothing is learned by heart"
    for i, (name, place) in enumerate(others.items()):
        noise = torch.Generator().manual_seed(i)
        if name == "uniform":
            x, what = as_pictures(torch.rand(count, *shape, generator=noise) * 2 - 1), SYNTHETIC[name]
        elif name == "constant":
            colours = torch.rand(count, shape[0], 1, 1, generator=noise) * 2 - 1
            x, what = as_pictures(colours).expand(-1, *shape).contiguous(), SYNTHETIC[name]
        else:
            x = torch.cat([x for _, x in picture_batches(place, shape[1], shape[0], count, drawn=True)])
            how = "held-out pictures of prepared data" if is_prepared(place) else "centre squares, by Lanczos and box means to the level"
            what = f"{how} ({Path(place).name})"  # not the whole place: bundles carry their records
        if len(x) < FEWEST:
            raise HiresError(f"detection.against={name}: {len(x)} pictures; wanted at least {FEWEST}")
        yield name, fade_images(x, material.subject.alpha), what


@torch.no_grad()
def _scored(material: Material, scores: dict[str, Score], x: Tensor, what: str) -> dict[str, np.ndarray]:
    return named(scores, in_ranks(len(x), material.at_once, lambda rows: all_scores(scores, x[rows.start : rows.stop])), what)
