"""Few labels and a transition operator: does a classifier gain from seeing a labelled picture's next state too? (Zhai et al. 2016, table 2)

The paper's classifier and training: Gaussian noise of 0.1 on pixels in [0, 1], three blocks of convolutions with batch norm and dropout 1/2
between them, a mean over the plane; Adadelta at 1, a tenth of it from 60 % and again from 90 % of the epochs; the loss is the cross entropy
of the picture plus that of its transition under the same label, one transition drawn a picture and step. The test error is the one at the
best epoch of a validation set.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from hires.errors import HiresError
from hires.evaluation.material import Material
from hires.ground.ranges import setting

NEEDS = ("transition",)
NOISE = 0.2  # on [-1, 1]
BATCH = 100

# transition(images, generator of noise) -> the images' next states
Transition = Callable[[Tensor, torch.Generator], Tensor]


@dataclass
class Config:
    """`measure=augmentation`: settings augmentation.…"""

    labels: int = setting(1000, at_least=1)  # labelled training pictures, the first ones; the next as many are the validation set
    epochs: int = setting(200, at_least=1)  # of the classifiers
    width: int = setting(64, at_least=1)  # channels of their layers; the paper's 64 is for a GPU


def measure(material: Material, settings) -> dict:
    """Errors of the classifier of few labels without and with transitions; raises HiresError where pictures are too few to validate."""
    config, shards = settings.augmentation, material.shards
    few = config.labels
    if shards.count("train") < 2 * few:
        wanted = f"augmentation.labels={few} takes as many again for validation"
        raise HiresError(f"data={shards.root}: {shards.count('train')} training pictures; {wanted}")
    sets = [material.labelled(*place) for place in (("train", 0, few), ("train", few, few), ("holdout", 0, settings.images))]
    plain, helped = (classify(sets[0], sets[1], sets[2], move, config.epochs, config.width) for move in (None, material.subject.transition))
    return {
        "plain_error": plain.error,
        "augmented_error": helped.error,
        "plain_validation_error": plain.validation,
        "augmented_validation_error": helped.validation,
        "augmentation_labels": few,
        "augmentation_test_pictures": len(sets[2][1]),
    }


@dataclass
class Augmentation:
    """Shares of pictures given a wrong label, 0 to 1, and the epoch that the validation set chose, from 1."""

    error: float
    validation: float
    epoch: int


class Classifier(nn.Sequential):
    """The paper's classifier: three blocks of `convs` convolutions of `width` channels, pooled and dropped out between them."""

    def __init__(self, channels: int, classes: int, width: int = 64, convs: int = 2):
        layers: list[nn.Module] = []
        inputs = channels
        for block in range(3):
            for _ in range(convs):
                layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                inputs = width
            if block < 2:
                layers += [nn.MaxPool2d(2), nn.Dropout(0.5)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def classify(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    transition: Transition | None,
    epochs: int = 200,
    width: int = 64,
    seed: int = 0,
) -> Augmentation:
    """Train a classifier on pictures (N, C, r, r) in [-1, 1] and labels (N,), with `transition` also on their next states.

    Raises HiresError for fewer than 2 classes or a label of the other sets that the training set lacks.
    """
    classes = int(train[1].max()) + 1
    if len(train[1].unique()) < 2 or max(int(labels.max()) for _, labels in (validation, test)) >= classes:
        raise HiresError(
            f"{len(train[1])} labelled pictures hold labels {train[1].unique().tolist()}: wanted every label of the others too"
        )
    noise = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # weights and dropout draw from the global generator
        torch.manual_seed(seed)
        model = Classifier(train[0].shape[1], classes, width)
        optimiser = torch.optim.Adadelta(model.parameters(), lr=1.0, rho=0.95)
        drops = torch.optim.lr_scheduler.MultiStepLR(optimiser, [round(0.6 * epochs), round(0.9 * epochs)], 0.1)
        best = Augmentation(1.0, 2.0, 0)
        for epoch in range(1, epochs + 1):
            model.train()
            for pick in torch.randperm(len(train[0]), generator=noise).split(BATCH):
                if len(pick) < 2:
                    continue  # batch norm needs two
                x, y = train[0][pick], train[1][pick]
                loss = F.cross_entropy(model(_noisy(x, noise)), y)
                if transition:
                    loss = loss + F.cross_entropy(model(_noisy(transition(x, noise).clamp(-1, 1), noise)), y)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            drops.step()
            wrong = error(model, *validation)
            if wrong < best.validation:
                best = Augmentation(error(model, *test), wrong, epoch)
    return best


@torch.no_grad()
def error(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images that the model, as in use, gives a wrong label."""
    model.eval()
    found = torch.cat([model(part).argmax(1) for part in images.split(500)])
    return (found != labels).float().mean().item()


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + NOISE * torch.randn(x.shape, generator=generator)
