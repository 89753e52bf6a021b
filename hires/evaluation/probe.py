"""What an energy has learned without labels: a linear classifier on the layer below its experts (Zhai et al. 2016, table 1).

Convolutions tell classes apart before they have learned anything, so the same probe is put to the network as it starts and to the pixels.
Each is probed twice: with every feature scaled by its own deviation, which makes the most of a layer where a few units carry little, and
raw, divided by one number.
"""

from collections.abc import Callable
from dataclasses import dataclass
import warnings

import torch
from torch import Tensor

from hires.errors import HiresError
from hires.evaluation.material import Material, in_ranks
from hires.ground.ranges import setting

NEEDS = ("features",)
STRENGTHS = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # of the weights' L2 penalty; the validation set chooses, the stronger of equals
VALIDATION = 6  # every sixth training picture, drawn at random, is for that choice alone: MNIST's 50,000 + 10,000
ITERATIONS = 300


@dataclass
class Config:
    """`measure=probe`: settings probe.…"""

    labels: int = setting(0, at_least=0)  # labelled training pictures, the first ones; 0 = all of them
    controls: bool = True  # raw features, the network as it starts and the pixels as well: six fits for one


def measure(material: Material, settings) -> dict:
    """The errors of a linear classifier on what the energy's last layer reads, trained on labelled training pictures, and its controls'."""
    shards, subject = material.shards, material.subject
    sets = [material.labelled("train", 0, settings.probe.labels or shards.count("train")), material.labelled("holdout", 0, settings.images)]
    (_, train_labels), (_, test_labels) = sets

    @torch.no_grad()
    def seen(features: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return [in_ranks(len(x), material.at_once, lambda rows, x=x: features(x[rows.start : rows.stop]).cpu()) for x, _ in sets]

    train, test = seen(subject.features)
    found = linear_probe(train, train_labels, test, test_labels)
    told = {
        "probe_error": found.error,
        "probe_validation_error": found.validation,
        "probe_l2": found.strength,
        "probe_features": train.shape[1],
        "probe_labels": len(train_labels),
    }
    if settings.probe.controls:
        told["probe_raw_error"] = linear_probe(train, train_labels, test, test_labels, scaled=False).error
        for name, features in (("untrained", subject.untrained), ("pixels", lambda x: x.flatten(1))):
            train, test = seen(features)
            for form, scaled in (("", True), ("_raw", False)):
                told[f"probe_{name}{form}_error"] = linear_probe(train, train_labels, test, test_labels, scaled).error
    return told


def lower(found: dict) -> float:
    """The test error."""
    return found["probe_error"]


@dataclass
class Probe:
    """Shares of pictures given a wrong label, 0 to 1."""

    error: float  # on the test set, by the classifier refitted on all training pictures
    validation: float
    strength: float  # of the L2 penalty, as chosen


def linear_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, scaled: bool = True) -> Probe:
    """Multinomial logistic regression on frozen features (N, F) and (M, F), each scaled by the training set's mean and deviation of it;
    not `scaled`: all divided by the deviation of all.

    The strength of its L2 penalty, a mean over pictures, is the one that does best on a sixth of the training set. Raises HiresError for
    one class alone or fewer than 12 pictures.
    """
    if len(train) < 2 * VALIDATION or len(train_labels.unique()) < 2:
        raise HiresError(f"a probe needs 12 training pictures of 2 classes, got {len(train)} of {len(train_labels.unique())}")
    mean, sd = (train.mean(0), train.std(0).clamp_min(1e-6)) if scaled else (torch.zeros(1), train.std().clamp_min(1e-12))
    train, test = ((features - mean) / sd for features in (train, test))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    held, kept = order[: len(train) // VALIDATION], order[len(train) // VALIDATION :]
    tried = {}
    for strength in STRENGTHS:
        model = _fitted(train[kept], train_labels[kept], strength)
        tried[strength] = 1 - model.score(train[held].numpy(), train_labels[held].numpy())
    best = min(tried, key=tried.get)
    model = _fitted(train, train_labels, best)
    return Probe(1 - model.score(test.numpy(), test_labels.numpy()), tried[best], best)


def _fitted(features: Tensor, labels: Tensor, strength: float):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / (strength * len(features)), max_iter=ITERATIONS)
    with warnings.catch_warnings():  # a weak penalty may stop at ITERATIONS: the validation set judges it as it is
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features.numpy(), labels.numpy())
