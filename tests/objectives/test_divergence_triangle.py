"""The round's options on a small network in the middle of a fade, against plain autograd; micro-batches against the whole batch."""

import copy
import dataclasses

import pytest
import torch

from hires import networks
from hires.networks import NetworkConfig
from hires.objectives.base import Rates
from hires.objectives.divergence_triangle import PLAYERS, SEES, UPDATES, Batch, Config, Objective
from hires.training.player import OptimizerConfig, ZeroConfig, new_player

D, BATCH, RESOLUTION, ALPHA = 6, 4, 16, 0.4
LR, ENERGY_LR = 2e-3, 1e-3
EPS = 1e-3  # of Adam: small enough to adapt, large enough not to turn rounding into steps (fp32, real engines)
ADAM = OptimizerConfig(beta1=0.3, beta2=0.9, eps=EPS, clip=30.0)
OFF = {"energy_sees": "samples", "lambda_u": 0.0, "r1": 0.0, "r1_on": "real", "range": 0.0, "reconstruct_box": 1}
OFF |= {"logvar_min": 0.0, "logvar_max": 0.0}
PLAIN = Config(kappa_max=768.0, beta=0.1, lambda_z=2.0, **OFF)


def start(plain, energy: str = "identity") -> dict[str, torch.nn.Module]:
    config = NetworkConfig(latent=D, channels_base=64, channels_max=8, convs=1, image_channels=1)
    nets = {name: networks.build(config, name, RESOLUTION, True, energy) for name in PLAYERS}
    for name, net in nets.items():
        networks.initialise(net, lambda parameter, name=name: plain.stream(f"{name}/{parameter}"))
    return nets


def triangle(config: Config, nets: dict, device, stage: int = 1) -> Objective:
    return Objective(config, D, {n: new_player(n, copy.deepcopy(net), ADAM, ZeroConfig(stage), "fp32", device) for n, net in nets.items()})


def play(one: Objective, rounds: list[dict], penalise=lambda i: True, micro_batch: int = 0) -> tuple[list[dict], dict]:
    """Measures of each round, and all parameters at the end; the engines are freed."""
    measures = []
    for i, data in enumerate(rounds):
        x, z, eps = (data[key].to(one.G.device) for key in ("x", "z", "eps"))
        extra = [tuple(noise.to(one.G.device) for noise in step) for step in data["extra"]]
        upside_down = x.flip(2) if "corrupted" in one.config.energy_sees else None
        batch = Batch(x, z, eps, extra, ALPHA, upside_down)
        found = one.round(batch, Rates(LR, ENERGY_LR, 0.5), RESOLUTION, penalise(i), micro_batch)
        measures.append({name: value.item() for name, value in found.items()})
    weights = {f"{p.name}/{n}": w for p in (one.G, one.U, one.I) for n, w in p.gather("weight").items() if n in p.shapes}
    for p in (one.G, one.U, one.I):
        p.destroy()
    return measures, weights


def settings_of(plain, config: Config):
    """The same weights for the reference."""
    clamp = (config.logvar_min, config.logvar_max) if config.logvar_min < config.logvar_max else None
    return plain.Settings(
        updates=config.updates,
        kappa=config.kappa_pixel * RESOLUTION**2,
        beta=config.beta * D,
        lambda_z=config.lambda_z,
        lambda_u=config.lambda_u,
        energy_weight=config.energy_weight,
        gamma=config.r1 / 4,  # at 16x16
        penalise_samples=config.r1_on == "both",
        range=config.range,
        box=min(config.reconstruct_box, RESOLUTION // 8),
        penalty_weight=config.r1_every,
        clamp=clamp,
        generator_steps=config.generator_steps,
        logistic=config.contrast == "logistic",
        reconstructions="reconstructions" in config.energy_sees,
        refined=(config.refine_steps, config.refine_size * RESOLUTION**2) if config.energy_sees == "samples_and_refined" else None,
        corrupted="corrupted" in config.energy_sees,
        adam={"betas": (ADAM.beta1, ADAM.beta2), "eps": EPS},
        clip=ADAM.clip,
    )


OPTIONS = {
    "plain": {},
    "energy L2": {"lambda_u": 0.2},
    "energy's weight": {"energy_weight": 4.0, "lambda_u": 0.1},
    "clamp": {"logvar_min": -1.0, "logvar_max": 0.5},
    "penalty": {"r1": 40.0, "r1_every": 2},
    "penalty on samples too": {"r1": 40.0, "r1_on": "both"},
    "boxes": {"reconstruct_box": 2},
    "range": {"range": 50.0},
    "softplus": {"energy": "softplus"},
    "experts": {"energy": "experts", "r1": 10.0},
    "two generator steps": {"generator_steps": 2},
    "all": {"lambda_u": 0.1, "logvar_min": -8.0, "logvar_max": 4.0, "r1": 10.0, "r1_on": "both", "range": 9.0, "generator_steps": 2},
    "reconstructions": {"energy_sees": "samples_and_reconstructions", "lambda_u": 0.1, "energy_weight": 3.0},
    "refined": {"energy_sees": "samples_and_refined", "refine_steps": 2, "refine_size": 0.05, "lambda_u": 0.1, "r1": 10.0, "r1_on": "both"},
    "corrupted": {"energy_sees": "samples_and_corrupted", "energy_weight": 3.0, "lambda_u": 0.1, "r1": 10.0, "r1_on": "both"},
    "logistic": {"contrast": "logistic", "lambda_u": 0.05, "energy_weight": 3.0, "r1": 10.0, "r1_on": "both"},
    "logistic, everything seen": {"contrast": "logistic", "energy_sees": SEES[-1], "energy_weight": 3.0, "lambda_u": 0.05, "r1": 10.0},
}
UNPUBLISHED = {name for name, option in OPTIONS.items() if "reconstructions" in option.get("energy_sees", "")}
CASES = [(updates, name) for updates in UPDATES for name in OPTIONS if updates != "published" or name not in UNPUBLISHED]


@pytest.mark.parametrize("updates,option", CASES)
def test_options_agree_with_plain_autograd(updates, option, world, plain, in_double):
    """In double precision, where no leaky unit flips for rounding's sake; engines in fp32 follow below."""
    fields = {f.name for f in dataclasses.fields(Config)}
    if not OPTIONS[option].keys() <= fields:
        pytest.skip(f"no {OPTIONS[option].keys() - fields}")
    config = dataclasses.replace(PLAIN, updates=updates, **OPTIONS[option])
    nets = {name: net.double() for name, net in start(plain, config.energy).items()}
    before = {f"{name}/{n}": p.detach().clone() for name, net in nets.items() for n, p in net.named_parameters()}
    rounds = plain.draw(3, BATCH, D, 1, RESOLUTION, config.generator_steps, torch.float64)
    reference = plain.Reference(copy.deepcopy(nets), settings_of(plain, config))
    expected = [
        reference.round(d["x"], d["z"], d["eps"], LR, ENERGY_LR, ALPHA, penalise=i != 1, extra=d["extra"]) for i, d in enumerate(rounds)
    ]
    found, weights = play(triangle(config, nets, world.device, stage=0), rounds, penalise=lambda i: i != 1)
    for theirs, ours in zip(expected, found, strict=True):
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, abs=1e-5, rel=1e-5), name
    parameters = {f"{name}/{n}": p.detach() for name, net in reference.nets.items() for n, p in net.named_parameters()}
    assert plain.worst(before, parameters) > LR
    assert plain.worst(weights, parameters) < 1e-5


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("updates", UPDATES)
def test_every_zero_stage_agrees_with_plain_autograd(updates, stage, world, plain):
    config = dataclasses.replace(PLAIN, updates=updates, lambda_u=0.1, generator_steps=2, r1=0.0 if stage == 3 else 10.0)
    nets, rounds = start(plain), plain.draw(3, BATCH, D, 1, RESOLUTION, 2)
    reference = plain.Reference(copy.deepcopy(nets), settings_of(plain, config))
    for d in rounds:
        reference.round(d["x"], d["z"], d["eps"], LR, ENERGY_LR, ALPHA, penalise=True, extra=d["extra"])
    _, weights = play(triangle(config, nets, world.device, stage), rounds)
    parameters = {f"{name}/{n}": p.detach() for name, net in reference.nets.items() for n, p in net.named_parameters()}
    assert plain.worst(weights, parameters) < 1e-5


@pytest.mark.campaign(4)
@pytest.mark.parametrize("option", ["all", "reconstructions", "refined", "corrupted", "logistic, everything seen"])
@pytest.mark.parametrize("updates", UPDATES)
def test_micro_batches_give_the_whole_batchs_step(updates, option, world, plain):
    """Not for softplus: there each pass turns the singular vectors, and two micro-batches are two passes."""
    if (updates, option) not in CASES:
        pytest.skip("no such combination")
    config = dataclasses.replace(PLAIN, updates=updates, **OPTIONS[option])
    nets, rounds = start(plain), plain.draw(3, BATCH, D, 1, RESOLUTION, config.generator_steps)
    whole, weights = play(triangle(config, nets, world.device), rounds)
    for micro_batch in (1, 2):
        parts, split = play(triangle(config, nets, world.device), rounds, micro_batch=micro_batch)
        assert plain.worst(weights, split) < 1e-5
        for name in ("R", "K", "N", "energy_real", "energy_fake", "energy_gap", "energy_size", "loss_energy", "logvar", "r1"):
            if name in whole[-1]:
                assert parts[-1][name] == pytest.approx(whole[-1][name], rel=1e-4, abs=1e-4), name


def test_divisor_is_held_where_it_vanishes(world, plain):
    """simultaneous divides by 1 - 2 lambda_u U(x_tilde): at U = 1 / (2 lambda_u) it must neither be infinite nor go unseen."""
    config = dataclasses.replace(PLAIN, updates="simultaneous", lambda_u=0.5)
    nets = start(plain)
    head = nets["energy"].levels["4x4"].head
    with torch.no_grad():
        head.weight.mul_(1e-3)
        head.bias.fill_(1 / (2 * config.lambda_u))
    measures, weights = play(triangle(config, nets, world.device), plain.draw(1, BATCH, D, 1, RESOLUTION))
    assert measures[0]["divisor_held"] == 1.0
    assert all(w.isfinite().all() for w in weights.values())
    measures, _ = play(triangle(config, start(plain), world.device), plain.draw(1, BATCH, D, 1, RESOLUTION))
    assert measures[0]["divisor_held"] < 1.0


def test_measures_say_what_they_are_called(world, plain):
    nets, (data,) = start(plain), plain.draw(1, BATCH, D, 1, RESOLUTION)
    measures, _ = play(triangle(dataclasses.replace(PLAIN, updates="energy_first", lambda_u=0.1), nets, world.device), [data])
    x, z = data["x"], data["z"]
    G, U = nets["generator"], nets["energy"]
    with torch.no_grad():
        u_x, x_tilde = U(x, ALPHA), G(z, ALPHA)
        u_f = U(x_tilde, ALPHA)
    m = measures[0]
    assert m["energy_gap"] == pytest.approx((u_f.mean() - u_x.mean()).item(), abs=1e-5)
    assert m["energy_size"] == pytest.approx(torch.cat([u_x, u_f]).abs().mean().item(), abs=1e-5)
    assert m["diversity"] == pytest.approx((x_tilde.var(0).mean() / x.var(0).mean()).sqrt().item(), rel=1e-4)


def test_without_reconstruction_no_ratio_is_told(world, plain):
    """rho divides by the reconstruction's pull: at kappa = 0 it would be infinite, and the run would stop for it."""
    measures, _ = play(
        triangle(dataclasses.replace(PLAIN, kappa_max=0.0), start(plain), world.device), plain.draw(1, BATCH, D, 1, RESOLUTION)
    )
    assert "rho" not in measures[0] and all(torch.tensor(list(measures[0].values())).isfinite())
