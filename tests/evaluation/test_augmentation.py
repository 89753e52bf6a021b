"""The classifier of few labels: what transitions add, the choice of the epoch, the paper's layers."""

import pytest
from sklearn.datasets import load_digits
import torch

from hires.errors import HiresError
from hires.evaluation.augmentation import Classifier, classify, error


@pytest.fixture(scope="module")
def sets():
    """Digits, 8x8 in [-1, 1]: 300 labelled, 200 to choose the epoch, 400 to test."""
    data = load_digits()
    x = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    y = torch.from_numpy(data.target)
    return (x[:300], y[:300]), (x[300:500], y[300:500]), (x[500:900], y[500:900])


def negative(images, generator):
    return -images


def noise(images, generator):
    return torch.randn(images.shape, generator=generator)


def test_next_states_teach_what_the_labelled_pictures_do_not_show(sets):
    """Tested on negatives, which have the same labels: a transition that makes them helps."""
    labelled, *others = sets
    negatives = [(-x, y) for x, y in others]
    plain = classify(labelled, *negatives, None, epochs=25, width=16)
    helped = classify(labelled, *negatives, negative, epochs=25, width=16)
    assert helped.error < 0.65 < plain.error


def test_the_same_seed_gives_the_same_classifier(sets):
    torch.manual_seed(123)
    first = classify(*sets, noise, epochs=1, width=4)
    after = torch.rand(1)
    torch.manual_seed(123)
    assert torch.equal(after, torch.rand(1))  # the global generator is left as it was
    assert classify(*sets, noise, epochs=1, width=4) == first


def test_the_epoch_is_the_validation_sets_choice(sets):
    labelled, validation, test = sets
    found = classify(labelled, validation, (test[0], (test[1] + 1) % 10), None, epochs=25, width=16)
    assert 1 <= found.epoch <= 25 and found.validation < 0.7 and found.error > 0.7


def test_the_classifier_is_the_papers():
    model = Classifier(1, 10)
    shapes = [tuple(p.shape) for p in model.parameters() if p.dim() == 4]
    assert shapes == [(64, 1, 3, 3)] + [(64, 64, 3, 3)] * 5
    assert sum(isinstance(m, torch.nn.MaxPool2d) for m in model) == 2 and sum(isinstance(m, torch.nn.Dropout) for m in model) == 2
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_error_counts_in_the_mode_of_use(sets):
    model = Classifier(1, 10, 4)
    assert error(model, *sets[2]) == error(model, *sets[2])  # no dropout
    constant = torch.nn.Linear(1, 1)
    constant.forward = lambda x: torch.eye(10)[0].expand(len(x), 10)
    assert error(constant, *sets[2]) == pytest.approx((sets[2][1] != 0).float().mean().item())


def test_a_label_never_seen_is_refused(sets):
    labelled, validation, test = sets
    few = labelled[1] < 5
    with pytest.raises(HiresError, match="label"):
        classify((labelled[0][few], labelled[1][few]), validation, test, None, epochs=1)
