"""Grids: what a device must hold for one does not grow with it, and the trial before a run draws one at every level."""

import pytest
import torch

from hires import config as configuration
from hires.errors import HiresError
from hires.objectives import divergence_triangle
from hires.objectives.base import AT_ONCE, fakes, reconstructions
from hires.training import trial
from hires.training.feed import Feed
from hires.training.guards.watchdog import Watchdog
from hires.training.schedule import Schedule
from tests.training.conftest import inputs, make_network


def test_pictures_are_computed_a_few_at_a_time():
    generator, inference = (make_network(name).eval().requires_grad_(False) for name in ("generator", "inference"))
    x, z = torch.cat([inputs(8, seed) for seed in range(3)]), torch.randn(11, 6)
    rows = []
    for network in (generator, inference):
        network.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    shown = fakes(generator, z, 1.0) | reconstructions(generator, inference, x, 1.0)
    assert max(rows) == AT_ONCE < len(z)
    torch.testing.assert_close(shown["fakes"][0], generator(z, 1.0))
    pairs = shown["reconstructions"][0].unflatten(0, (-1, 2))
    torch.testing.assert_close(pairs[:, 0], x)
    torch.testing.assert_close(pairs[:, 1], generator(inference(x, 1.0)[0], 1.0))


def test_a_level_whose_grid_does_not_fit_is_found_before_the_run(world, tiny, monkeypatch):
    config = configuration.load("train", [*tiny, "run=none"])
    schedule = Schedule(config.schedule)
    feed = Feed(config, schedule, world, schedule.end(""))
    drawn, plain = [], divergence_triangle.Objective.pictures

    def pictures(objective, networks, x, z, alpha):
        drawn.append((x.shape[-1], len(x), len(z), alpha))
        if x.shape[-1] == 8:
            raise torch.OutOfMemoryError
        return plain(objective, networks, x, z, alpha)

    monkeypatch.setattr(divergence_triangle.Objective, "pictures", pictures)
    with pytest.raises(HiresError, match="level 8x8, batch 16 over 1 processes does not fit in memory"):
        trial.steps(config, world, feed, Watchdog(world, 0), 0)
    assert drawn == [(4, AT_ONCE, AT_ONCE, 1.0), (8, AT_ONCE, AT_ONCE, schedule.at(48).alpha)]
