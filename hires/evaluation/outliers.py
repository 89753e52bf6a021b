"""How well one number a picture tells strange pictures from usual ones: what each system has to offer as a score, and the rates of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hires.errors import HiresError
from hires.evaluation.reconstruction import errors
from hires.evaluation.subject import Subject
from hires.ground.files import whole_file

SCORES = {  # name -> how a figure calls it; a higher score is stranger
    "energy": "energy U(x)",
    "pair_energy": "energy of the pair U(x, μ(x))",
    "gradient": "|∂U/∂x|",
    "reconstruction": "mean squared error of the reconstruction",
    "bound": "minus the evidence bound",
}
TRUE_RATE = 0.95  # of FPR at 95 % TPR
RESAMPLED = 200  # times, for an interval
BINS = 50
Score = Callable[[Tensor], Tensor]


def scores_of(subject: Subject) -> dict[str, Score]:
    """The scores that a subject has networks for: name -> function of pictures (B, C, r, r) to (B,), higher is stranger.

    Raises HiresError where it has none.
    """
    found: dict[str, Score] = {}
    if subject.energy:
        found["pair_energy" if subject.of_pairs else "energy"] = subject.energy
        found["gradient"] = lambda x: _slope(subject.energy, x)
    if subject.decode and subject.encode:
        found["reconstruction"] = lambda x: errors(subject.decode, subject.encode, x)
    if subject.bound:
        found["bound"] = subject.bound
    if not found:
        raise HiresError(f"{subject.name}: neither an energy nor a reconstruction to score pictures by")
    return found


def all_scores(scores: dict[str, Score], x: Tensor) -> Tensor:
    """Every score of pictures x (B, C, r, r): (B, number of scores), fp64, on the CPU."""
    return torch.stack([score(x).double().cpu() for score in scores.values()], 1)


def named(scores: dict[str, Score], values: Tensor, what: str) -> dict[str, np.ndarray]:
    """Columns of `all_scores` by name; raises HiresError for one that is not finite."""
    for i, name in enumerate(scores):
        if not values[:, i].isfinite().all():
            raise HiresError(f"{what}: the {name} of a picture is not finite")
    return {name: values[:, i].numpy() for i, name in enumerate(scores)}


def rates(usual: np.ndarray, strange: np.ndarray) -> tuple[float, float, float]:
    """(AUROC, AUPRC, FPR at 95 % TPR) of scores (N,) and (M,), higher meant to be stranger.

    AUROC is the chance that a strange picture scores higher than a usual one; AUPRC, of strange ones as what is looked for, is the
    average precision and by chance M / (N + M). FPR is the share of strange pictures that pass where 95 % of the usual ones do.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    truth, values = np.repeat([0, 1], [len(usual), len(strange)]), np.concatenate([usual, strange])
    false_rate, true_rate, _ = roc_curve(1 - truth, -values, drop_intermediate=False)
    fpr = false_rate[np.searchsorted(true_rate, TRUE_RATE - 1e-12)]
    return float(roc_auc_score(truth, values)), float(average_precision_score(truth, values)), float(fpr)


def rates_with_intervals(usual: np.ndarray, strange: np.ndarray) -> list[list[float]]:
    """[value, low, high] of each of `rates`: percentiles 2.5 and 97.5 over sets drawn anew from both with replacement."""
    draw, (values, places) = np.random.default_rng(0), np.unique(np.concatenate([usual, strange]), return_inverse=True)
    again = []
    for _ in range(RESAMPLED):
        picked = draw.choice(places[: len(usual)], len(usual)), draw.choice(places[len(usual) :], len(strange))
        again.append(rates_of_counts(*(np.bincount(those, minlength=len(values)) for those in picked)))
    low, high = np.percentile(again, [2.5, 97.5], axis=0)
    found = zip(rates(usual, strange), low, high, strict=True)
    return [[float(rate), min(float(least), rate), max(float(most), rate)] for rate, least, most in found]  # few pictures may leave it out


def rates_of_counts(usual: np.ndarray, strange: np.ndarray) -> tuple[float, float, float]:
    """`rates` of sets given as how many of each have each value, both (V,), values ascending: 50 times as fast for sets drawn anew."""
    below = np.cumsum(usual) - usual
    auroc = (strange * (below + usual / 2)).sum() / (usual.sum() * strange.sum())
    above = np.cumsum(strange[::-1])[::-1]
    precision = above / np.maximum(above + np.cumsum(usual[::-1])[::-1], 1)
    passing = np.searchsorted(np.cumsum(usual), TRUE_RATE * usual.sum() - 1e-9)  # the lowest threshold that 95 % of the usual ones pass
    return auroc, (strange * precision).sum() / strange.sum(), np.cumsum(strange)[passing] / strange.sum()


def draw_histograms(path: Path, sets: dict[str, dict[str, np.ndarray]], title: str) -> None:
    """Write a PNG with a panel for each score: the density of its values in each set, set -> score -> (N,), the first set filled.

    Bins reach over the middle 99 % of the values, those beyond lie in the outermost. Raises HiresError where it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    scores = list(next(iter(sets.values())))
    with matplotlib.rc_context({"text.parse_math": False}):  # a name may have a $ in it
        figure = Figure(figsize=(4.6 * len(scores), 3.8), layout="constrained")
        for axes, score in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
            together = np.concatenate([values[score] for values in sets.values()])
            low, high = np.percentile(together, [0.5, 99.5])
            edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
            for i, (name, values) in enumerate(sets.items()):
                style = {"histtype": "stepfilled", "alpha": 0.35} if i == 0 else {"histtype": "step", "linewidth": 1.5}
                axes.hist(values[score].clip(edges[0], edges[-1]), edges, density=True, color=f"C{i}", label=name, **style)
            axes.set(xlabel=SCORES[score], yticks=[])
            for side in ("top", "left", "right"):
                axes.spines[side].set_visible(False)
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, frameon=False, loc="outside lower center", ncols=min(len(names), 6))
        figure.suptitle(title)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            figure.savefig(part, format="png", dpi=110)


def _slope(energy: Score, x: Tensor) -> Tensor:
    """The Euclidean norm of dU/dx of each picture; of an energy of pairs, along with its code."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(x).sum(), x)
    return gradient.flatten(1).norm(dim=1)
