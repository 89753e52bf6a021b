"""vgan, gan and vcd as published, on the published networks, against P3's equations in plain autograd: tanh codes, uniform noise, [0, 1].

In double precision and with a start that leaves no unit on an edge, so that what is compared is the mathematics; Adadelta is torch's.
"""

import copy
import math

import pytest
import torch
from torch.distributions import Bernoulli
import torch.nn.functional as F

from hires import config as configuration
from hires import networks
from hires.objectives import SYSTEMS
from hires.objectives.base import Rates
from hires.training.player import OptimizerConfig, ZeroConfig, new_player

BATCH, LR, ENERGY_LR = 6, 1.0, 0.5
ADADELTA = OptimizerConfig(name="adadelta", beta2=0.95, eps=1e-6, clip=1e9)
CASES = [("vgan", 1, 28, 1), ("vgan", 3, 32, 3), ("gan", 1, 32, 3), ("vcd", 1, 28, 1), ("vcd", 2, 32, 3)]


def made(name: str, steps: int, channels: int, plain, resolution: int):
    """The published settings at a sixteenth of the width, and the networks in double precision."""
    network = "p3_mnist" if channels == 1 else "p3"
    words = [f"network={network}", f"objective={name}_published", f"objective.generator_steps={steps}", "run=none", "data.root=none"]
    config = configuration.load("train", [*words, "network.width=0.0625", "network.latent=7"])
    nets = {}
    for player in config.objective.players():
        nets[player] = SYSTEMS[name].network(config.objective, config.network, player, resolution, False)
        networks.initialise(nets[player], lambda parameter, player=player: plain.stream(f"{player}/{parameter}"))
        nets[player].double()
    return config, nets


def normed(h, norm):
    """Batch norm as its definition has it."""
    dims = [0, *range(2, h.dim())]
    mean, var = h.mean(dims, keepdim=True), h.var(dims, unbiased=False, keepdim=True)
    shape = [1, -1] + [1] * (h.dim() - 2)
    return (h - mean) / (var + 1e-4).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)


class Reference:
    """P3's algorithms on pictures p in [0, 1], one graph through all networks."""

    def __init__(self, config, nets):
        self.config, self.nets = config, nets
        self.steps = {n: torch.optim.Adadelta(net.parameters(), lr=1, rho=0.95, eps=1e-6) for n, net in nets.items()}

    def scores(self, p):
        E, h = self.nets["energy"], p
        for conv in (E.conv0, E.conv1):
            h = F.max_pool2d(F.relu(F.conv2d(h, conv.weight, conv.bias, padding=2)), 2)
        return E.head(F.relu(E.dense(h.flatten(1))))

    def experts(self, p):
        return torch.sigmoid(self.scores(p)).clamp(1e-4, 1 - 1e-4)

    def U(self, p):
        return Bernoulli(probs=self.experts(p)).entropy().sum(1).mean()

    def H(self, p):
        return Bernoulli(probs=self.experts(p).mean(0)).entropy().sum()

    def code(self, p):
        I, h = self.nets["inference"], p  # noqa: E741 - the papers' name
        for conv, norm in ((I.conv0, I.norm0), (I.conv1, I.norm1)):
            h = F.max_pool2d(F.relu(normed(F.conv2d(h, conv.weight, padding=2), norm)), 2)
        return torch.tanh(normed(I.dense(h.flatten(1)), I.norm2))

    def synthesis(self, h):
        G = self.nets["generator"]
        if self.config.name != "vcd":
            h = F.relu(normed(G.first(h), G.norm))
        h = F.relu(normed(G.dense(h), G.norm0))
        side = math.isqrt(h.shape[1] // G.deconv0.weight.shape[0])
        twice = {"stride": 2, "padding": 2, "output_padding": 1}
        h = F.relu(normed(F.conv_transpose2d(h.view(len(h), -1, side, side), G.deconv0.weight, **twice), G.norm1))
        return torch.sigmoid(F.conv_transpose2d(h, G.deconv1.weight, G.deconv1.bias, **twice))

    def made(self, p, draw, k):
        """(samples, reconstructions, what is reconstructed) of the k-th step."""
        stream = str(k or "")
        if self.config.name != "vcd":
            return self.synthesis(draw(f"latent{stream}", 7)), None, None
        c = p[1::2]
        h = self.code(c)
        uniform = 2 * torch.distributions.Normal(0.0, 1.0).cdf(draw(f"mixing{stream}", 7)[1::2]) - 1
        return self.synthesis(torch.where(draw(f"coin{stream}", 7)[1::2] > 0, h, uniform)), self.synthesis(h), c

    def step(self, names, loss, lr):
        gradients = {n: torch.autograd.grad(loss, list(self.nets[n].parameters()), retain_graph=True) for n in names}
        for n in names:
            for parameter, gradient in zip(self.nets[n].parameters(), gradients[n], strict=True):
                parameter.grad = gradient
            self.steps[n].param_groups[0]["lr"] = lr
            self.steps[n].step()

    def round(self, x, draw):
        p, name = (x + 1) / 2, self.config.name
        real, fake = p[0::2] if name == "vcd" else p, self.made(p, draw, 0)[0].detach()
        if name == "gan":
            loss = F.binary_cross_entropy_with_logits(self.scores(real), torch.ones(len(real), 1).to(p))
            loss = loss + F.binary_cross_entropy_with_logits(self.scores(fake), torch.zeros(len(fake), 1).to(p))
        else:
            loss = self.U(real) - self.U(fake) - self.H(real)
        self.step(["energy"], loss, ENERGY_LR)
        seen = {"loss_energy": loss.item()}
        for k in range(self.config.generator_steps):
            fake, again, c = self.made(p, draw, k)
            loss = F.binary_cross_entropy_with_logits(self.scores(fake), torch.ones(len(fake), 1).to(p)) if name == "gan" else 0
            if name != "gan":
                loss = self.U(fake) - self.H(fake)
            if name == "vcd":
                R = -(c * again.log() + (1 - c) * (1 - again).log()).mean()
                loss = self.config.rho * loss + (1 - self.config.rho) * R
                seen.setdefault("R", R.item())
            self.step([n for n in self.nets if n != "energy"], loss, LR)
        return seen


@pytest.mark.parametrize("name,steps,resolution,channels", CASES)
def test_rounds_are_the_papers(name, steps, resolution, channels, world, plain, in_double):
    config, nets = made(name, steps, channels, plain, resolution)
    reference = Reference(config.objective, copy.deepcopy(nets))
    players = {n: new_player(n, copy.deepcopy(net), ADADELTA, ZeroConfig(0), "fp32", world.device) for n, net in nets.items()}
    one = SYSTEMS[name](config.objective, 7, players)
    for i, data in enumerate(plain.draw(3, BATCH, 7, channels, resolution)):
        x = data["x"].double().clamp(-0.98, 0.98)

        def draw(stream, size, i=i):
            return torch.randn(BATCH, size, generator=plain.stream(f"{i}/{stream}")).double()

        expected = reference.round(x, draw)
        batch = one.batch(x.to(world.device), 1.0, lambda *what, draw=draw: draw(*what).to(world.device), 7)
        found = one.round(batch, Rates(LR, ENERGY_LR, 0.5), resolution, True)
        for measure, value in expected.items():
            assert found[measure].item() == pytest.approx(value, abs=1e-6), (measure, i)
    for player, net in reference.nets.items():
        own, before = players[player].gather("weight"), dict(nets[player].named_parameters())
        for n, parameter in net.named_parameters():
            assert (parameter - before[n]).abs().max() > 1e-5, (player, n)  # all of it moved
            torch.testing.assert_close(own[n].double().cpu(), parameter.detach(), atol=2e-6, rtol=1e-5)
        state = reference.steps[player].state
        moments = players[player].gather("exp_avg_sq")  # the second of Adadelta's numbers, under Adam's name
        for n, parameter in net.named_parameters():
            expected = state[parameter]["acc_delta"]
            torch.testing.assert_close(moments[n].double().cpu(), expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-3)
