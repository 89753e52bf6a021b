"""The three orders against plain autograd on the published networks, at the published weights (the code of the paper), and on those with
batch norm in all three.

In double precision: within two rounds Adam turns an element whose gradient is rounding alone into a step of the whole learning rate, and
in fp32 that is 1e-4 between two equally right programs. In double they agree to 1e-6, so 1e-5 is a test of the mathematics.
"""

import copy
import dataclasses
import math

import pytest
import torch

from hires import networks
from hires.errors import HiresError
from hires.networks import NetworkConfig
from hires.objectives.base import Rates
from hires.objectives.divergence_triangle import PLAYERS, SEES, UPDATES, Batch, Config, Objective
from hires.training.player import OptimizerConfig, ZeroConfig, new_player

D, BATCH, ROUNDS = 100, 2, 2
LR, ENERGY_LR = 3e-4, 1e-4


def published_weights(updates: str) -> Config:
    """kappa 3072, one of the KL's mean over dimensions (ours multiplies beta by d), 10 of the NLL's mean, nothing else."""
    weights = {"kappa_pixel": 3.0, "kappa_max": 3072.0, "beta": 1 / D, "lambda_z": 10.0, "lambda_u": 0.0, "energy_weight": 1.0}
    weights["energy_sees"] = "samples"
    return Config(updates=updates, **weights, r1=0.0, range=0.0, reconstruct_box=1, logvar_min=0.0, logvar_max=0.0)


def start(plain, kind: str, width: float, energy_norm: str = "published") -> dict[str, torch.nn.Module]:
    """The three networks; E and I at He's scale, for the published start leaves their outputs so small that no term but R pulls."""
    shape = NetworkConfig(kind=kind, latent=D, width=width, energy_norm=energy_norm)
    nets = {name: networks.build(shape, name, 32) for name in PLAYERS}
    for name, net in nets.items():
        networks.initialise(net, lambda parameter, name=name: plain.stream(f"{name}/{parameter}"))
        with torch.no_grad():
            for p in net.parameters():
                if name != "generator" and p.dim() == 4:
                    p.mul_(math.sqrt(2 / p[0].numel()) / 0.02)
        net.double()
    return nets


def compare(plain, world, nets: dict, config: Config, settings, penalise: bool = False) -> tuple[dict[str, float], dict[str, int]]:
    """Play ROUNDS of both and compare every term; returns each player's largest difference of a parameter, and how often it was clipped."""
    reference = plain.Reference(copy.deepcopy(nets), settings)
    adam = OptimizerConfig(beta1=0.5, beta2=0.999, eps=settings.adam["eps"], clip=settings.clip)
    players = {n: new_player(n, copy.deepcopy(net), adam, ZeroConfig(0), "fp32", world.device) for n, net in nets.items()}
    triangle = Objective(config, D, players)
    for data in plain.draw(ROUNDS, BATCH, D, 3, 32):
        x, z, eps = (data[key].double() for key in ("x", "z", "eps"))
        expected = reference.round(x, z, eps, LR, ENERGY_LR, penalise=penalise)
        batch = Batch(*(t.to(world.device) for t in (x, z, eps)), [], corrupted=x.flip(2) if settings.corrupted else None)
        found = triangle.round(batch, Rates(LR, ENERGY_LR, 0.0), 32, due=True)
        assert expected.keys() == {"energy_real", "energy_fake", "loss_energy", "R", "K", "N"}
        for name, value in expected.items():
            assert found[name].item() == pytest.approx(value, abs=1e-5), name
    apart = {}
    for name, player in players.items():
        own = player.gather("weight")
        parameters = {n: p.detach() for n, p in reference.nets[name].named_parameters()}
        moved = plain.worst(parameters, {n: p.detach() for n, p in nets[name].named_parameters()})
        assert moved > 0.9 * ROUNDS * (ENERGY_LR if name == "energy" else LR)
        apart[name] = plain.worst({n: own[n] for n in parameters}, parameters)
        player.destroy()
    return apart, reference.clipped


@pytest.mark.slow
@pytest.mark.parametrize("updates", UPDATES)
def test_rounds_agree_with_plain_autograd(updates, world, plain, in_double):
    config = published_weights(updates)
    assert config.kappa(32) == 3072
    assert config.beta * D == pytest.approx(1.0)
    apart, clipped = compare(plain, world, start(plain, "dcgan32", 0.25), config, plain.Settings(updates=updates))
    assert max(apart.values()) < 1e-5
    assert any(clipped.values())  # so the comparison covers clipping


@pytest.mark.parametrize("updates", UPDATES)
def test_batch_norm_sees_one_kind_of_images_at_a_time(updates, world, plain, in_double):
    """Real images, samples and each other kind of fake, by E and by I, in every order, with a contrast that weighs each image anew."""
    sees = SEES[-1] if updates != "published" else "samples_and_corrupted"
    changes = {"contrast": "logistic", "energy_sees": sees, "energy_weight": 3.0, "lambda_u": 0.05}
    config = dataclasses.replace(published_weights(updates), **changes)
    told = {"reconstructions": "reconstructions" in sees, "corrupted": True, "by_kind": True, "logistic": True}
    settings = plain.Settings(updates=updates, lambda_u=0.05, energy_weight=3.0, **told)
    apart, _ = compare(plain, world, start(plain, "dcgan64", 0.125), config, settings)
    assert max(apart.values()) < 1e-5


@pytest.mark.parametrize("updates", UPDATES)
def test_layer_norm_is_of_one_image_and_lets_it_be_penalised(updates, world, plain, in_double):
    changes = {"contrast": "logistic", "energy_sees": "samples_and_corrupted", "lambda_u": 0.05, "r1": 10.0, "r1_on": "both", "r1_every": 1}
    config = dataclasses.replace(published_weights(updates), **changes)
    told = {"corrupted": True, "logistic": True, "gamma": 10.0, "penalise_samples": True}
    settings = plain.Settings(updates=updates, lambda_u=0.05, **told)
    apart, _ = compare(plain, world, start(plain, "dcgan32", 0.25, "layer"), config, settings, penalise=True)
    assert max(apart.values()) < 1e-5


def test_a_penalty_of_single_images_is_refused_with_batch_norm():
    with pytest.raises(HiresError, match=r"objective\.r1=0\.5 with network\.kind=dcgan64.*set network\.energy_norm=layer"):
        Objective.check(Config(r1=0.5), NetworkConfig(kind="dcgan64"), 1)
    Objective.check(Config(r1=0.5), NetworkConfig(kind="dcgan64", energy_norm="layer"), 1)
