"""Ranks agree on a stop and on what is not finite; DeepSpeed's refusal of a step, on which this relies, holds on every sharded stage."""

import pytest
import torch

from hires.errors import NotFinite
from hires.ground import noise
from hires.objectives.divergence_triangle import Objective
from hires.training.guards.agreement import Health
from hires.training.player import ZeroConfig, new_player


def measures(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in {"loss_energy": 1.0, "K": 0.5, "R": 0.1, **values}.items()}


def test_it_answers_one_step_late_so_the_host_never_waits(world):
    health = Health(world, Objective.TERMS)
    health.record(measures(), {}, True, 16)
    assert health.look() is False
    health.record(measures(), {}, False, 32)
    assert health.look() is True
    health.record(measures(), {}, False, 48)
    assert health.look() is False


def test_what_is_not_finite_is_named_with_its_player_and_the_images_of_its_step(world):
    health = Health(world, Objective.TERMS)
    health.record(measures(K=float("nan"), loss_energy=float("inf"), r1=float("nan")), {}, False, 16)
    health.record(measures(), {}, False, 32)
    with pytest.raises(NotFinite, match=r"^at 16 images: energy: loss_energy, r1; inference: K$"):
        health.look()


def test_before_saving_the_newest_step_counts(world):
    health = Health(world, Objective.TERMS)
    health.record(measures(R=float("inf")), {}, False, 16)
    assert not health.look()
    with pytest.raises(NotFinite, match="at 16 images: generator: R"):
        health.look(newest=True)


def test_a_gradient_that_was_not_stepped_on_is_named_one_step_later(world):
    health = Health(world, Objective.TERMS)
    health.record(measures(K=float("nan")), {"the energy's gradient": torch.tensor(float("inf"))}, False, 16)
    assert not health.look()
    health.record(measures(), {"the energy's gradient": torch.tensor(1.0)}, False, 32)
    with pytest.raises(NotFinite, match=r"^at 16 images: the energy's gradient, from inference: K$"):
        health.look()


def test_one_of_several_steps_of_a_round_that_was_withheld_is_not_forgotten(make_player, trained):
    player = make_player(stage=0)
    for factor in (float("nan"), 1.0):
        with player.accumulate():
            player.backward(player(torch.ones(4, 1, 8, 8, device=player.device), 1.0).mean() * factor)
        player.step(1e-2, 0.5)
    assert player.steps() == {"4x4": 1, "8x8": 1} and not player.norm().isfinite()
    trained(player, 1)
    assert player.norm().isfinite()


def test_the_spread_of_a_batch_of_one_says_nothing(world):
    health = Health(world, Objective.TERMS)
    for images in (16, 32, 48):
        health.record(measures(diversity=float("nan")), {}, False, images)
        assert not health.look(newest=True)


@pytest.mark.parametrize("field", ["weight", "exp_avg", "exp_avg_sq", "ema"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_state_that_is_not_finite_is_named(field, value, world, make_player, trained):
    player, health = make_player(), Health(world, Objective.TERMS)
    trained(player, 1)
    health.check_state({"energy": player}, 16)
    getattr(player.fragments[-1], field)[-1] = value
    with pytest.raises(NotFinite, match=f"^at 16 images: the energy's {field}$"):
        health.check_state({"energy": player}, 16)


@pytest.mark.parametrize("stage,precision", [(stage, precision) for stage in range(4) for precision in ("fp32", "bf16")])
@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_refused_before_the_step(stage, precision, loss, world, make_player):
    from hires.training.player import OptimizerConfig

    player = make_player(stage=stage)
    if precision == "bf16":
        player = new_player("energy", player.network, OptimizerConfig(), ZeroConfig(stage), precision, world.device)
    before = [(f.weight.clone(), f.exp_avg_sq.clone(), f.ema.clone()) for f in player.fragments]
    x = torch.ones(4, 1, 8, 8, device=world.device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    with player.accumulate():
        player.backward(player(x, 1.0).float().mean() * loss)
    if stage:
        with pytest.raises(NotFinite, match="the energy's gradient"):
            player.step(1e-2, 0.5)
    else:  # where the host never looks
        player.step(1e-2, 0.5)
        assert not player.norm().isfinite() and player.norm() is None and player.steps() == {"4x4": 0, "8x8": 0}
    after = [(f.weight, f.exp_avg_sq, f.ema) for f in player.fragments]
    assert all(torch.equal(a, b) for old, new in zip(before, after, strict=True) for a, b in zip(old, new, strict=True))


def test_noise_is_the_runs_own_until_a_rollback_and_then_each_times_other():
    seeds = [noise.seed_after(7, attempt) for attempt in range(5)]
    assert seeds[0] == 7 and len(set(seeds)) == 5 and seeds == [noise.seed_after(7, attempt) for attempt in range(5)]
    assert noise.seed_after(8, 1) != seeds[1]
