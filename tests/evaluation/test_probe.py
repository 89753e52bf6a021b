"""The linear probe: a separable set, noise, the choice of the penalty; labels out of keys."""

import pytest
import torch

from hires.errors import HiresError
from hires.evaluation.probe import STRENGTHS, _fitted, linear_probe
from hires.evaluation.subject import of_networks
from hires.ground.labels import labels_of
from hires.networks import NetworkConfig
from hires.objectives import SYSTEMS


def clusters(count: int, classes: int, spread: float, seed: int, features: int = 8):
    """Points around fixed corners, on an axis of 10,000 and one of a thousandth too: a probe must scale."""
    generator = torch.Generator().manual_seed(seed)
    corners = 3 * torch.randn(classes, features, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (count,), generator=generator)
    points = corners[labels] + spread * torch.randn(count, features, generator=generator)
    return points * torch.logspace(-3, 4, features), labels


def test_classes_apart_are_told_apart_on_any_scale():
    found = linear_probe(*clusters(300, 4, 0.3, 1), *clusters(200, 4, 0.3, 2))
    assert found.error == 0 and found.validation == 0 and found.strength in STRENGTHS


def test_raw_features_hide_what_small_ones_tell():
    """Two axes of a thousandth tell everything, one of a thousand nothing: the penalty keeps the former from being used."""
    y = clusters(400, 3, 1.0, 1)[1]
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(5)) * torch.tensor([1e3, 1e-4, 1e-4])
    x[:, 1:] += 1e-3 * torch.nn.functional.one_hot(y, 3)[:, 1:]
    assert linear_probe(x[:200], y[:200], x[200:], y[200:]).error < 0.02
    assert linear_probe(x[:200], y[:200], x[200:], y[200:], scaled=False).error > 0.3


def test_raw_features_know_no_unit():
    x, y = clusters(300, 4, 2.0, 1, features=3)
    found = [linear_probe(scale * x[:200], y[:200], scale * x[200:], y[200:], scaled=False) for scale in (1.0, 1e-5)]
    assert found[0].strength == found[1].strength and found[0].error == pytest.approx(found[1].error, abs=0.02)


def test_features_of_noise_give_chance():
    x, y = torch.randn(600, 5, generator=torch.Generator().manual_seed(3)), clusters(600, 4, 1.0, 4)[1]
    found = linear_probe(x[:400], y[:400], x[400:], y[400:])
    assert found.error == pytest.approx(0.75, abs=0.12)


def test_a_strong_penalty_is_chosen_where_features_are_as_many_as_pictures():
    """300 pictures, 250 features of which two tell: fitting them freely is fitting noise."""
    generator = torch.Generator().manual_seed(8)
    y = torch.randint(2, (900,), generator=generator)
    x = torch.randn(900, 250, generator=generator)
    x[:, :2] += 1.2 * (2 * y[:, None] - 1)
    found = linear_probe(x[:300], y[:300], x[300:], y[300:])
    assert found.strength >= 0.1 and found.error < 0.2


def test_a_stronger_penalty_gives_smaller_weights_for_any_number_of_pictures():
    """A mean over pictures: the same pictures twice give the same weights."""
    x, y = clusters(100, 3, 1.0, 7, features=1)
    sizes = [abs(_fitted(x, y, strength).coef_).sum() for strength in sorted(STRENGTHS)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 2 * sizes[-1]
    assert _fitted(x.repeat(2, 1), y.repeat(2), 0.1).coef_ == pytest.approx(_fitted(x, y, 0.1).coef_, rel=1e-2)


@pytest.mark.parametrize("count,classes", [(10, 2), (100, 1)])
def test_too_little_is_refused(count, classes):
    x, y = clusters(count, classes, 1.0, 6)
    with pytest.raises(HiresError, match="probe"):
        linear_probe(x, y, x, y)


def test_labels_are_the_numbers_at_the_end_of_the_keys():
    assert labels_of(["train/00042_7", "0003_0", "a/b_c_12"], "here").tolist() == [7, 0, 12]
    for key in ("train/00042", "seven_x", "7"):
        with pytest.raises(HiresError, match="here"):
            labels_of(["1_1", key], "here")


@pytest.mark.parametrize("kind,system", [("dcgan32", "divergence_triangle"), ("p2", "latent_ebm"), ("p3", "vgan"), ("p4", "f_ebm")])
def test_every_papers_energy_has_features(kind, system):
    settings, shape = SYSTEMS[system].Settings(), NetworkConfig(kind=kind, latent=5, width=0.05)
    nets = {player: SYSTEMS[system].network(settings, shape, player, 32, False).eval() for player in settings.players()}
    subject = of_networks(nets, settings, "a run", 0, (32, 3, 5), 1.0, torch.device("cpu"))
    with torch.no_grad():
        of_pictures, of_noise = (subject.features(x) for x in (torch.zeros(2, 3, 32, 32), torch.rand(2, 3, 32, 32)))
    assert of_pictures.ndim == 2 and of_pictures.shape == of_noise.shape and not torch.equal(of_pictures, of_noise)
