"""Few labels and a transition operator: does a classifier gain from seeing a labelled picture's next state too? (Zhai et al. 2016, table 2)

The paper's classifier and training: Gaussian noise of 0.1 on pixels in [0, 1], three blocks of convolutions with batch norm and dropout 1/2
between them, a mean over the plane; Adadelta at 1, a tenth of it from 60 % and again from 90 % of the epochs; the loss is the cross entropy
of the picture plus that of its transition under the same label, one transition drawn a picture and step. The test error is the one at the
best epoch of a validation set. A transition can only help where it keeps the label: an oracle says in how many cases it does, and a plain
reconstruction.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from hires.errors import HiresError
from hires.evaluation.classifier import Classifier, Labelled, error, train
from hires.evaluation.material import Material
from hires.evaluation.subject import Subject
from hires.ground.images import to_uint8
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
    width: int = setting(64, at_least=1)  # channels of their layers, and of the oracle's; the paper's 64 is for a GPU
    oracle: int = setting(4, at_least=0)  # epochs of the oracle that judges whether transitions keep labels; 0 = none


def measure(material: Material, settings) -> dict:
    """Errors of the classifier of few labels without and with transitions; raises HiresError where pictures are too few to validate."""
    config, shards = settings.augmentation, material.shards
    few = config.labels
    if shards.count("train") < 2 * few:
        wanted = f"augmentation.labels={few} takes as many again for validation"
        raise HiresError(f"data={shards.root}: {shards.count('train')} training pictures; {wanted}")
    sets = [material.labelled(*place) for place in (("train", 0, few), ("train", few, few), ("holdout", 0, settings.images))]
    plain, helped = (classify(sets[0], sets[1], sets[2], move, config.epochs, config.width) for move in (None, material.subject.transition))
    return (judged(material, config.oracle, config.width, settings.images) if config.oracle else {}) | {
        "plain_error": plain.error,
        "augmented_error": helped.error,
        "plain_validation_error": plain.validation,
        "augmented_validation_error": helped.validation,
        "augmentation_labels": few,
        "augmentation_test_pictures": len(sets[2][1]),
    }


def judged(material: Material, epochs: int, width: int, images: int) -> dict[str, float]:
    """What an oracle, a classifier of all labelled training pictures, makes of transitions: shares of held-out pictures, 0 to 1.

    `oracle_accuracy`, of the pictures themselves; `kept_by_transitions` and `kept_by_reconstructions`, of what is made of them that is
    given their label; `kept_by_chance`, what transitions with these labels would keep if they knew nothing of the pictures.
    """
    shards = material.shards
    x, y = material.labelled("train", 0, shards.count("train"))
    oracle = train(Labelled(to_uint8(x), y), int(y.max()) + 1, epochs, torch.device("cpu"), width=width)
    return kept(oracle, material.subject, *material.labelled("holdout", 0, images))


@torch.no_grad()
def kept(oracle: nn.Module, subject: Subject, x: Tensor, y: Tensor) -> dict[str, float]:
    """`judged` by an oracle in eval mode, of pictures (N, C, r, r) in [-1, 1] and their labels (N,), a hundred at a time."""
    noise, found = torch.Generator().manual_seed(0), {"": [], "transitions": [], "reconstructions": []}
    for part in x.tensor_split(-(-len(x) // BATCH)):  # a batch norm wants two of them
        made = {"": part, "transitions": subject.transition(part, noise), "reconstructions": subject.reproduce(part)}
        for name, pictures in made.items():
            found[name].append(oracle(pictures.clamp(-1, 1)).argmax(1))
    labels = {name: torch.cat(parts) for name, parts in found.items()}
    shares = {name: (given == y).float().mean().item() for name, given in labels.items()}
    classes = 1 + int(max(y.max(), labels["transitions"].max()))
    true, made = (torch.bincount(given, minlength=classes) / len(y) for given in (y, labels["transitions"]))
    return {
        "oracle_accuracy": shares[""],
        "kept_by_transitions": shares["transitions"],
        "kept_by_reconstructions": shares["reconstructions"],
        "kept_by_chance": (true * made).sum().item(),
    }


@dataclass
class Augmentation:
    """Shares of pictures given a wrong label, 0 to 1, and the epoch that the validation set chose, from 1."""

    error: float
    validation: float
    epoch: int


def classify(
    labelled: tuple[Tensor, Tensor],
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
    classes = int(labelled[1].max()) + 1
    if len(labelled[1].unique()) < 2 or max(int(labels.max()) for _, labels in (validation, test)) >= classes:
        raise HiresError(
            f"{len(labelled[1])} labelled pictures hold labels {labelled[1].unique().tolist()}: wanted every label of the others too"
        )
    noise = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # weights and dropout draw from the global generator
        torch.manual_seed(seed)
        model = Classifier(labelled[0].shape[1], classes, width).to(memory_format=torch.channels_last)  # a third faster on a CPU
        optimiser = torch.optim.Adadelta(model.parameters(), lr=1.0, rho=0.95)
        drops = torch.optim.lr_scheduler.MultiStepLR(optimiser, [round(0.6 * epochs), round(0.9 * epochs)], 0.1)
        best, at_best = Augmentation(1.0, 2.0, 0), {}
        for epoch in range(1, epochs + 1):
            model.train()
            for pick in torch.randperm(len(labelled[0]), generator=noise).split(BATCH):
                if len(pick) < 2:
                    continue  # batch norm needs two
                x, y = labelled[0][pick], labelled[1][pick]
                loss = F.cross_entropy(model(_noisy(x, noise)), y)
                if transition:
                    loss = loss + F.cross_entropy(model(_noisy(transition(x, noise).clamp(-1, 1), noise)), y)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            drops.step()
            wrong = error(model, *validation)
            if wrong < best.validation:
                best = Augmentation(1.0, wrong, epoch)
                at_best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(at_best)
        best.error = error(model, *test)
    return best


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    return (x + NOISE * torch.randn(x.shape, generator=generator)).contiguous(memory_format=torch.channels_last)
