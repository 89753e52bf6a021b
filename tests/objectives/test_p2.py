"""P2's published round against plain autograd on its own networks: batch norm in G and I, spectral normalisation in the energy of pairs.

In double precision, as test_published_triangle.py says why; the power iteration stands still, for it counts passes and not rounds.
"""

import copy
import math

import pytest
import torch

from hires import config as configuration
from hires import networks
from hires.networks import NetworkConfig
from hires.objectives.base import Rates
from hires.objectives.latent_ebm import PLAYERS, Batch, Objective
from hires.training.player import ZeroConfig, new_player

BATCH, ROUNDS, LR, ENERGY_LR = 4, 2, 3e-4, 1e-4


def preset():
    return configuration.load("train", ["experiment=p2_cifar10", "run=x", "data.root=y"])


def start(plain, shape: NetworkConfig, resolution: int, objective) -> dict[str, torch.nn.Module]:
    nets = {name: Objective.network(objective, shape, name, resolution, False) for name in PLAYERS}
    for name, net in nets.items():
        networks.initialise(net, lambda parameter, name=name: plain.stream(f"{name}/{parameter}"))
        net.double()
    nets["energy"].eval()
    return nets


class Published:
    """The public code's three losses with their sums and single-sample densities, and its Adams."""

    def __init__(self, nets, sign: float):
        self.nets, self.sign = nets, sign
        self.G, self.U, self.I = (nets[name] for name in PLAYERS)
        decays = {"generator": 1e-4, "energy": 0.0, "inference": 1e-4}
        self.adams = {
            name: torch.optim.Adam(
                net.parameters(), lr=ENERGY_LR if name == "energy" else LR, betas=(0.0, 0.9), weight_decay=decays[name]
            )
            for name, net in nets.items()
        }

    def step(self, name, loss):
        for p, g in zip(self.nets[name].parameters(), torch.autograd.grad(loss, list(self.nets[name].parameters())), strict=True):
            p.grad = g
        self.adams[name].step()

    def infer(self, x, eps):
        mu, lv = self.I(x)
        z = mu + (0.5 * lv).exp() * eps
        log_q = torch.distributions.Normal(mu, (0.5 * lv).exp()).log_prob(z).sum(1)
        log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
        return z, log_q, log_p

    def round(self, x, z, eps):
        squares = lambda x_hat: ((x_hat - x) ** 2).sum() / len(x)  # noqa: E731
        z_tilde, log_q, log_p = self.infer(x, eps)
        self.step("energy", self.U(x, z_tilde.detach()).mean() - self.U(self.G(z).detach(), z).mean())
        kl = (log_q - log_p).mean()
        if self.sign < 0:  # eq. 15: KL(Q || P) - KL(Q || Pi)
            loss = squares(self.G(z_tilde)) + kl - (self.U(x, z_tilde) + log_q).mean()
        else:  # eq. 17: their sum
            loss = squares(self.G(z_tilde)) + kl + (self.U(x, z_tilde) + log_q).mean()
        self.step("inference", loss)
        with torch.no_grad():
            z_tilde, _, _ = self.infer(x, eps)
        self.step("generator", squares(self.G(z_tilde)) + self.U(self.G(z), z).mean())


@pytest.mark.parametrize(("equation", "resolution", "channels"), [("eq15", 32, 3), ("eq17", 28, 1)])
def test_a_round_is_the_published_codes(equation, resolution, channels, world, plain):
    config = preset()
    objective, shape = config.objective, config.network
    objective.inference_loss, shape.width, shape.latent, shape.image_channels = equation, 0.05, 5, channels
    objective.kappa_pixel = float(channels)  # a sum of squares
    nets = start(plain, shape, resolution, objective)
    reference = Published(copy.deepcopy(nets), -1.0 if equation == "eq15" else 1.0)
    config.optimizer.clip = math.inf
    players = {n: new_player(n, copy.deepcopy(net), config.optimizer, ZeroConfig(0), "fp32", world.device) for n, net in nets.items()}
    game = Objective(objective, shape.latent, players)
    for data in plain.draw(ROUNDS, BATCH, shape.latent, channels, resolution):
        x, z, eps = (data[key].double() for key in ("x", "z", "eps"))
        reference.round(x, z, eps)
        game.round(Batch(*(t.to(world.device) for t in (x, z, eps))), Rates(LR, ENERGY_LR, 0.0), resolution, due=True)
    for name, player in players.items():
        own = player.gather("weight")
        parameters = {n: p.detach() for n, p in reference.nets[name].named_parameters()}
        moved = plain.worst(parameters, {n: p.detach() for n, p in nets[name].named_parameters()})
        assert moved > 0.9 * ROUNDS * (ENERGY_LR if name == "energy" else LR)
        assert plain.worst({n: own[n] for n in parameters}, parameters) < 1e-6, name
        player.destroy()


def test_the_preset_is_the_papers():
    config = preset()
    assert config.objective.kappa(32) == 3 * 32**2  # of a mean over pixels: a sum
    assert (config.optimizer.beta1, config.optimizer.beta2) == (0.0, 0.9)
    level = config.schedule.levels["32"]
    assert (level.batch, level.lr) == (100, 3e-4) and level.lr * config.schedule.energy_lr == pytest.approx(1e-4)
    assert config.schedule.decay_factor == 0.998


# FACTS of the public code: (kernel, in, out) of each convolution, a dense layer's kernel being 1
SHAPES = {
    "generator": [(4, 100, 384), (4, 384, 384), (4, 384, 192), (4, 192, 96), (3, 96, 3)],
    "inference": [(3, 3, 48), (4, 48, 96), (4, 96, 192), (4, 192, 384), (4, 384, 100), (4, 384, 100)],
    "energy": [
        *[(3, 3, 64), (4, 64, 64), (3, 64, 128), (4, 128, 128), (3, 128, 256), (4, 256, 256), (3, 256, 512), (4, 512, 512)],
        *[(1, a, b) for a, b in [(100, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]],
        *[(1, 1024, 1024), (1, 1024, 1)],
    ],
}  # fmt: skip


@pytest.mark.parametrize("player", PLAYERS)
def test_the_networks_are_the_published_ones(player):
    config = preset()
    network = Objective.network(config.objective, config.network, player, 32, False)
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear)]
    found = [
        (1, m.in_features, m.out_features) if isinstance(m, torch.nn.Linear) else (m.kernel_size[0], m.in_channels, m.out_channels)
        for m in layers
    ]
    assert found == SHAPES[player]
    norms = [m.num_features for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms == {"generator": [384, 384, 192, 96], "inference": [48, 96, 192, 384], "energy": []}[player]


@torch.no_grad()
def test_every_layer_of_the_energy_has_spectral_norm_one(plain):
    config = preset()
    config.network.width = 0.1
    U = Objective.network(config.objective, config.network, "energy", 32, False)
    networks.initialise(U, plain.stream)
    x, z = torch.randn(2, 3, 32, 32), torch.randn(2, 100)
    for _ in range(60):  # each pass in training turns the singular vectors further
        u = U(x, z)
    assert (u > 0).all()  # softplus
    checked = [m for m in U.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(checked) == 18
    for module in checked:
        assert torch.linalg.matrix_norm(module.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.03)
        bound = 1 / module.weight[0].numel() ** 0.5  # torch's own start
        start = module.parametrizations.weight.original
        assert 0.9 * bound < start.abs().max() <= bound and module.bias.abs().max() <= bound
