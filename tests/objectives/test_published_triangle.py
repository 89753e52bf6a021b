"""The three orders against plain autograd on the published 32x32 networks, at the published weights (the code of the paper).

In double precision: within two rounds Adam turns an element whose gradient is rounding alone into a step of the whole learning rate, and
in fp32 that is 1e-4 between two equally right programs. In double they agree to 1e-6, so 1e-5 is a test of the mathematics.
"""

import copy
import math

import pytest
import torch

from hires import networks
from hires.networks import NetworkConfig
from hires.objectives.base import Rates
from hires.objectives.divergence_triangle import PLAYERS, Batch, Config, Objective
from hires.training.player import OptimizerConfig, ZeroConfig, new_player

D, BATCH, ROUNDS = 100, 2, 2
LR, ENERGY_LR = 3e-4, 1e-4


def published_weights(updates: str) -> Config:
    """kappa 3072, one of the KL's mean over dimensions (ours multiplies beta by d), 10 of the NLL's mean, nothing else."""
    weights = {"kappa_pixel": 3.0, "kappa_max": 3072.0, "beta": 1 / D, "lambda_z": 10.0, "lambda_u": 0.0, "energy_weight": 1.0}
    weights["energy_sees"] = "samples"
    return Config(updates=updates, **weights, r1=0.0, range=0.0, reconstruct_box=1, logvar_min=0.0, logvar_max=0.0)


@pytest.fixture(scope="module")
def start(plain) -> dict[str, torch.nn.Module]:
    """The three networks; E and I at He's scale, for the published start leaves their outputs so small that no term but R pulls."""
    nets = {name: networks.build(NetworkConfig(kind="dcgan32", latent=D, width=0.25), name, 32) for name in PLAYERS}
    for name, net in nets.items():
        networks.initialise(net, lambda parameter, name=name: plain.stream(f"{name}/{parameter}"))
        with torch.no_grad():
            for p in net.parameters():
                if name != "generator" and p.dim() == 4:
                    p.mul_(math.sqrt(2 / p[0].numel()) / 0.02)
        net.double()
    return nets


@pytest.mark.slow
@pytest.mark.parametrize("updates", ["published", "energy_first", "simultaneous"])
def test_rounds_agree_with_plain_autograd(updates, start, world, plain, in_double):
    config = published_weights(updates)
    assert config.kappa(32) == 3072
    reference = plain.Reference(copy.deepcopy(start), plain.Settings(updates=updates))
    adam = OptimizerConfig(beta1=0.5, beta2=0.999, eps=1e-8, clip=100.0)
    players = {n: new_player(n, copy.deepcopy(net), adam, ZeroConfig(0), "fp32", world.device) for n, net in start.items()}
    triangle = Objective(config, D, players)
    assert triangle.beta == pytest.approx(1.0)
    for data in plain.draw(ROUNDS, BATCH, D, 3, 32):
        x, z, eps = (data[key].double() for key in ("x", "z", "eps"))
        expected = reference.round(x, z, eps, LR, ENERGY_LR)
        found = triangle.round(Batch(*(t.to(world.device) for t in (x, z, eps)), []), Rates(LR, ENERGY_LR, 0.0), 32, due=True)
        assert expected.keys() == {"energy_real", "energy_fake", "loss_energy", "R", "K", "N"}
        for name, value in expected.items():
            assert found[name].item() == pytest.approx(value, abs=1e-5), name
    assert any(reference.clipped.values())  # so the comparison covers clipping
    for name, player in players.items():
        own = player.gather("weight")
        parameters = {n: p.detach() for n, p in reference.nets[name].named_parameters()}
        moved = plain.worst(parameters, {n: p.detach() for n, p in start[name].named_parameters()})
        assert moved > 0.9 * ROUNDS * (ENERGY_LR if name == "energy" else LR)
        assert plain.worst({n: own[n] for n in parameters}, parameters) < 1e-5, name
        player.destroy()
