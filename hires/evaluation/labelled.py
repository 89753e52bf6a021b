"""Measures that need labels: the linear probe of an energy's features, and what a transition operator adds to a few labelled pictures."""

from collections.abc import Callable

import torch
from torch import Tensor

from hires.errors import HiresError
from hires.evaluation.augmentation import Transition, classify
from hires.evaluation.labels import labels_of
from hires.evaluation.probe import linear_probe
from hires.networks.growing import fade_images
from pipelines import Loader, Shards

FEW = 1000  # labelled pictures of the augmentation, unless said otherwise; its validation set has as many, the next ones
BATCH = 50


def pictures(shards: Shards, resolution: int, split: str, first: int, count: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Pictures first … first + count of a split in [-1, 1] (N, C, r, r), fewer where it ends before, and their labels (N,)."""
    indices = torch.arange(shards.count(split))[first : first + count].numpy()
    keys = shards.keys(split)[first : first + count]
    x = Loader(shards, resolution, split, 0.0).read(indices).float() / 127.5 - 1
    return fade_images(x, alpha), labels_of(keys, f"data={shards.root}")


def probe(features: Callable[[Tensor], Tensor], shards: Shards, resolution: int, alpha: float, labels: int, images: int) -> dict:
    """The linear probe's errors for `labels` training pictures (0: all) and at most `images` held-out ones."""
    train = pictures(shards, resolution, "train", 0, labels or shards.count("train"), alpha)
    test = pictures(shards, resolution, "holdout", 0, images, alpha)
    with torch.no_grad():
        seen = [torch.cat([features(part).flatten(1).float() for part in x.split(BATCH)]) for x, _ in (train, test)]
    found = linear_probe(seen[0], train[1], seen[1], test[1])
    return {
        "probe_error": found.error,
        "probe_validation_error": found.validation,
        "probe_l2": found.strength,
        "probe_features": seen[0].shape[1],
        "probe_labels": len(train[1]),
    }


def augmentation(
    transition: Transition, shards: Shards, resolution: int, alpha: float, labels: int, images: int, epochs: int, width: int
) -> dict:
    """Errors of the classifier of few labels without and with transitions; raises HiresError where pictures are too few to validate."""
    few = labels or FEW
    if shards.count("train") < 2 * few:
        raise HiresError(f"data={shards.root}: {shards.count('train')} training pictures; labels={few} takes as many again for validation")
    sets = [pictures(shards, resolution, *place, alpha) for place in (("train", 0, few), ("train", few, few), ("holdout", 0, images))]
    plain, helped = (classify(*sets, move, epochs, width) for move in (None, transition))
    return {
        "plain_error": plain.error,
        "augmented_error": helped.error,
        "plain_validation_error": plain.validation,
        "augmented_validation_error": helped.validation,
        "augmentation_labels": few,
        "augmentation_test_pictures": len(sets[2][1]),
    }
