"""A class that training never saw, among held-out pictures of those that it saw: P2's anomaly detection on MNIST, table 4.

`hires prepare` holds out the whole class and a share of the others (split.match, split.holdout); what is strange is every held-out picture
with a label that no training picture has. Two sets of usual pictures:

- leak-free: the held-out ones, none of which was trained on.
- published: as many drawn from all usual pictures, trained on or not. In the public code that later papers took their protocol from,
  training and test draw their permutations one after the other from one generator, so the test set overlaps the training set by chance.
"""

from dataclasses import dataclass
import math

import numpy as np
import torch
from torch import Tensor

from hires.errors import HiresError
from hires.evaluation.material import Material, in_ranks
from hires.evaluation.outliers import Score, all_scores, draw_histograms, named, scores_of
from hires.ground.labels import labels_of
from hires.ground.ranges import setting
from hires.networks.growing import fade_images
from pipelines import Loader

NEEDS = ()
COLUMNS = "[AUPRC] by trapezia, as published, [average precision], [AUROC]"


@dataclass
class Config:
    """`measure=anomaly`: settings anomaly.…"""

    pictures: int = setting(0, at_least=0)  # held-out pictures at most, usual and strange ones in their proportion; 0 = all


def measure(material: Material, settings) -> dict:
    """The areas of each score on both sets of usual pictures, with what they would be by chance and at worst."""
    shards, scores = material.shards, scores_of(material.subject)
    trained, held = (labels_of(shards.keys(split), f"data={shards.root}") for split in ("train", "holdout"))
    strange = ~torch.isin(held, trained)
    if not strange.any() or strange.all():
        which = "every held-out label is also trained on" if not strange.any() else "no held-out label is trained on"
        raise HiresError(f"data={shards.root}: {which}; measure=anomaly wants data of hires prepare … split.match='_4$' split.holdout=…")
    share = min(1.0, (settings.anomaly.pictures or len(held)) / len(held))
    draw = torch.Generator().manual_seed(0)
    usual_rows, strange_rows = (_some(mask.nonzero().flatten(), share, draw) for mask in (~strange, strange))
    leaked = round(len(usual_rows) * len(trained) / (len(trained) + int((~strange).sum())))  # as many as a draw from all of them meets
    leaked_rows = torch.randperm(len(trained), generator=draw)[:leaked]
    sets = {
        "usual, held out": _scored(material, scores, "holdout", usual_rows),
        "strange": _scored(material, scores, "holdout", strange_rows),
        "usual, trained on": _scored(material, scores, "train", leaked_rows),
    }
    usual, odd, known = sets.values()
    published = {name: np.concatenate([known[name], usual[name][: len(usual_rows) - leaked]]) for name in scores}
    prevalence = len(strange_rows) / (len(strange_rows) + len(usual_rows))
    found: dict = {
        "anomaly_labels": ", ".join(map(str, sorted(set(held[strange].tolist())))),
        "anomaly_pictures": f"{len(strange_rows)} strange, {len(usual_rows)} usual; {leaked} of these trained on as published, else none",
        "anomaly_prevalence": prevalence,  # also the area by chance
        "anomaly_least": least_area(prevalence),
        "anomaly_columns": COLUMNS,
    }
    for split, of in (("leak_free", usual), ("published", published)):
        found |= {f"anomaly_{split}_{name}": areas(of[name], odd[name]) for name in scores}
    title = f"{material.subject.name}: pictures of {found['anomaly_labels']} among others"
    return found | material.picture("anomaly_histogram", lambda path: draw_histograms(path, sets, title))


def lower(found: dict) -> float | None:
    """1 - the published area of the energy, or of the reconstruction where there is none, on the leak-free split."""
    for score in ("pair_energy", "energy", "reconstruction"):
        if f"anomaly_leak_free_{score}" in found:
            return 1 - found[f"anomaly_leak_free_{score}"][0]
    return None


def areas(usual: np.ndarray, strange: np.ndarray) -> list[float]:
    """Of scores (N,) and (M,), higher meant to be stranger: the columns that COLUMNS names."""
    from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

    truth, values = np.repeat([0, 1], [len(usual), len(strange)]), np.concatenate([usual, strange])
    precision, recall, _ = precision_recall_curve(truth, values)
    return [float(auc(recall, precision)), float(average_precision_score(truth, values)), float(roc_auc_score(truth, values))]


def least_area(prevalence: float) -> float:
    """The smallest area under precision and recall that any scores can have at a prevalence in (0, 1) (Boyd et al., ICML 2012)."""
    return 1 + (1 - prevalence) * math.log(1 - prevalence) / prevalence


def _some(rows: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """A share of the rows drawn at random, at least one."""
    return rows[torch.randperm(len(rows), generator=draw)][: max(1, round(share * len(rows)))]


@torch.no_grad()
def _scored(material: Material, scores: dict[str, Score], split: str, rows: Tensor) -> dict[str, np.ndarray]:
    subject = material.subject
    loader = Loader(material.shards, subject.resolution, split, cache_gb=0.0)

    def batch(places: range) -> Tensor:
        pixels = loader.read(rows[places.start : places.stop].numpy()).float()
        return all_scores(scores, fade_images(pixels / 127.5 - 1, subject.alpha))

    return named(scores, in_ranks(len(rows), material.at_once, batch), f"measure=anomaly, split {split}")
