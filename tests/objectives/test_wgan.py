"""wgan as published, on the published networks, against plain autograd: a step of the generator in every fifth round alone."""

import copy

import pytest
import torch

from hires import config as configuration
from hires import networks, objectives
from hires.errors import HiresError
from hires.networks import NetworkConfig
from hires.objectives import SYSTEMS, wgan
from hires.objectives.base import Rates
from hires.training.player import OptimizerConfig, ZeroConfig, new_player

BATCH, D, LR, ENERGY_LR, DECAY = 4, 7, 2e-3, 1e-3, 0.9
ADAM = {"betas": (0.0, 0.9), "eps": 1e-6}


@pytest.fixture
def nets(plain) -> dict[str, torch.nn.Module]:
    """At He's scale: the published start leaves the slope so near 0 that there is hardly a penalty."""
    config, found = NetworkConfig(kind="dcgan32", latent=D, width=0.05), {}
    for player in wgan.PLAYERS:
        found[player] = SYSTEMS["wgan"].network(wgan.Config(), config, player, 32, False)
        networks.initialise(found[player], lambda name, player=player: plain.stream(f"{player}/{name}"))
        with torch.no_grad():
            for parameter in found[player].parameters():
                if player == "energy" and parameter.dim() == 4:
                    parameter.mul_((2 / parameter[0].numel()) ** 0.5 / 0.02)
        found[player].double()
    return found


def test_rounds_are_the_published_ones(nets, world, plain, in_double):
    words = ["network=dcgan32", "objective=wgan_published", "run=none", "data.root=none"]
    config = configuration.load("train", words).objective
    assert (config.critic_steps, config.lambda_gp, config.range) == (5, 10, 0)
    own = OptimizerConfig(beta1=0.0, beta2=0.9, eps=1e-6, clip=1e9)
    players = {name: new_player(name, copy.deepcopy(net), own, ZeroConfig(0), "fp32", world.device) for name, net in nets.items()}
    game, (G, U) = SYSTEMS["wgan"](config, D, players), nets.values()
    adams = {name: torch.optim.Adam(net.parameters(), lr=LR if name == "generator" else ENERGY_LR, **ADAM) for name, net in nets.items()}
    began = {name: parameter.detach().clone() for name, parameter in G.named_parameters()}
    average = dict(began)
    for i, data in enumerate(plain.draw(6, BATCH, D, 3, 32)):
        x = data["x"].double()

        def draw(stream, size, i=i):
            return torch.randn(BATCH, size, generator=plain.stream(f"{i}/{stream}")).double()

        x_tilde = G(draw("latent", D)).detach()
        u = torch.distributions.Normal(0.0, 1.0).cdf(draw("between", 1))[:, :, None, None]
        between = (u * x + (1 - u) * x_tilde).requires_grad_()
        (slope,) = torch.autograd.grad(U(between).sum(), between, create_graph=True)
        slope = slope.square().sum((1, 2, 3)).sqrt()
        penalty = 10 * (slope - 1).square().mean()
        loss = U(x).mean() - U(x_tilde).mean() + penalty
        adams["energy"].zero_grad()
        loss.backward()
        adams["energy"].step()
        if i % 5 == 0:
            adams["generator"].zero_grad()
            U(G(draw("latent1", D))).mean().backward()
            adams["generator"].step()
            average = {name: torch.lerp(p.detach(), average[name], DECAY**5) for name, p in G.named_parameters()}
        batch = game.batch(x.to(world.device), 1.0, lambda *what, draw=draw: draw(*what).to(world.device), D)
        found = game.round(batch, Rates(LR, ENERGY_LR, DECAY), 32, due=i % game.every == 0)
        for term, value in {"loss_energy": loss, "energy_slope": slope.mean(), "penalty": penalty}.items():
            assert found[term].item() == pytest.approx(value.item(), abs=1e-6), (term, i)
    for name, net in nets.items():
        parameters = {n: p.detach() for n, p in net.named_parameters()}
        assert plain.worst({n: players[name].gather("weight")[n] for n in parameters}, parameters) < 1e-6
    assert plain.worst(dict(G.named_parameters()), began) > LR
    assert plain.worst({n: players["generator"].gather("ema")[n] for n in average}, average) < 1e-6  # it forgets by images
    assert players["generator"].steps() == {"all": 2} and players["energy"].steps() == {"all": 6}


@pytest.mark.parametrize(
    ("kind", "stage", "words"),
    [("dcgan64", 1, "batch norm.*energy_norm=layer"), ("dcgan32", 3, r"zero\.stage=3"), ("p3", 1, "p3.*wgan"), ("p4", 1, "p4.*wgan")],
)
def test_what_does_not_train_is_refused_in_one_line(kind, stage, words):
    with pytest.raises(HiresError, match=words) as refusal:
        objectives.check(wgan.Config(), NetworkConfig(kind=kind), stage)
    assert "\n" not in str(refusal.value)
