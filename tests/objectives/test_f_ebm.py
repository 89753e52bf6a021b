"""f-EBM and contrastive divergence against the same game in plain autograd: P4's equations, a buffer and chains of its own.

Small networks in the middle of a fade, in double precision; then ZeRO's stages and micro-batches against each other.
"""

import copy
import dataclasses
import math
import zlib

import pytest
import torch
import torch.nn.functional as F

from hires import networks, objectives
from hires.errors import HiresError
from hires.networks import NetworkConfig
from hires.objectives import contrastive_divergence, f_ebm
from hires.objectives.base import Rates
from hires.objectives.replay import NAME, ChainsConfig
from hires.training.player import OptimizerConfig, ZeroConfig, new_player

RESOLUTION, BATCH, SLOTS, ALPHA, LR, ENERGY_LR, EPS = 8, 4, 10, 0.4, 2e-3, 5e-3, 1e-3
ADAM = OptimizerConfig(beta1=0.3, beta2=0.9, eps=EPS, clip=30.0)
CHAINS = ChainsConfig(steps=3, step_size=0.03, noise=0.05, reach=0.06, replay=SLOTS, restart=0.4)
DIVERGENCES = [("kl", 0.5), ("reverse_kl", 0.5), ("jensen_shannon", 0.5), ("squared_hellinger", 0.5), ("pearson", 0.5), ("neyman", 0.5),
               ("alpha", -0.5), ("alpha", 0.9)]  # fmt: skip

# A(r), B(r) as P4 has them, without a limit
FORMS = {
    "kl": lambda r, a: (1 + r, r.exp()),
    "reverse_kl": lambda r, a: (-1 / r.exp(), r - 1),
    "jensen_shannon": lambda r, a: (math.log(2) + r - (1 + r.exp()).log(), (1 + r.exp()).log() - math.log(2)),
    "squared_hellinger": lambda r, a: (1 - 1 / r.exp().sqrt(), r.exp().sqrt() - 1),
    "pearson": lambda r, a: (2 * (r.exp() - 1), r.exp() ** 2 - 1),
    "neyman": lambda r, a: (1 - 1 / r.exp() ** 2, 2 - 2 / r.exp()),
    "alpha": lambda r, a: ((r.exp() ** (a - 1) - 1) / (a - 1), (r.exp() ** a - 1) / a),
}


def draw_of(moment: int, dtype=torch.float64):
    def draw(stream: str, size: int) -> torch.Tensor:
        dice = torch.Generator().manual_seed(zlib.crc32(f"{stream}@{moment}".encode()))
        return torch.randn(BATCH, size, generator=dice, dtype=torch.float64).to(dtype)

    return draw


def images(moment: int, dtype=torch.float64) -> torch.Tensor:
    small = torch.randn(BATCH, 1, 4, 4, generator=torch.Generator().manual_seed(moment))
    return F.interpolate(small, RESOLUTION, mode="bilinear").tanh().to(dtype)


def start(players) -> dict[str, torch.nn.Module]:
    config = NetworkConfig(latent=4, channels_base=32, channels_max=8, convs=1, image_channels=1)
    kinds = {name: "generator" if name == "generator" else "energy" for name in players}
    nets = {name: networks.build(config, kind, RESOLUTION, True) for name, kind in kinds.items()}
    for name, net in nets.items():
        networks.initialise(net, lambda p, name=name: torch.Generator().manual_seed(zlib.crc32(f"{name}/{p}".encode())))
    return nets


class Reference:
    """The game with one picture at a time in the buffer, sums written out, torch's Adam."""

    def __init__(self, nets: dict, config):
        self.nets, self.c, self.buffer = nets, config, None
        adam = {"betas": (ADAM.beta1, ADAM.beta2), "eps": EPS}
        self.adams = {name: torch.optim.Adam(net.parameters(), lr=0.0, **adam) for name, net in nets.items()}

    def energy(self, x):
        return self.nets["energy"](x, ALPHA)

    def samples(self, draw) -> torch.Tensor:
        begin = self.nets["generator"](draw("latent", 4), ALPHA).detach() if "generator" in self.nets else self.from_buffer(draw)
        return self.chain(begin, draw)

    def from_buffer(self, draw) -> torch.Tensor:
        c = self.c.chains
        normal = torch.distributions.Normal(0.0, 1.0)
        own = [[s for s in range(SLOTS) if s * BATCH // SLOTS == place] for place in range(BATCH)]
        size = RESOLUTION**2
        if self.buffer is None:
            most = max(map(len, own))
            noise = normal.cdf(draw("replay", most * size)).view(BATCH, most, 1, RESOLUTION, RESOLUTION)
            self.buffer = [((noise[place, i] * 2 - 1 + 1) * 127.5).round() for place in range(BATCH) for i in range(len(own[place]))]
        dice = normal.cdf(draw("chain", 2 + size))
        self.chosen = [own[i][min(int(dice[i, 0] * len(own[i])), len(own[i]) - 1)] for i in range(BATCH)]
        x = []
        for i in range(BATCH):
            u = dice[i, 2:].view(1, RESOLUTION, RESOLUTION)
            x.append(2 * u - 1 if dice[i, 1] < c.restart else (self.buffer[self.chosen[i]] + u - 0.5) / 127.5 - 1)
        return torch.stack(x)

    def chain(self, x, draw) -> torch.Tensor:
        c, size = self.c.chains, RESOLUTION**2
        for k in range(c.steps):
            x.requires_grad_()
            (g,) = torch.autograd.grad(self.energy(x).sum(), x)
            move = c.step_size * RESOLUTION**2 * g
            move = torch.where(move.abs() > c.reach, c.reach * g.sign(), move)
            x = (x.detach() - move + c.noise * draw(f"langevin{k}", size).view(x.shape)).clamp(-1, 1)
        if self.buffer is not None:
            for i in range(BATCH):
                self.buffer[self.chosen[i]] = ((x[i] + 1) * 127.5).round()
        return x

    def step(self, name: str, loss, lr: float) -> None:
        net, adam = self.nets[name], self.adams[name]
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), ADAM.clip)
        adam.param_groups[0]["lr"] = lr
        adam.step()

    def round(self, x, draw) -> dict[str, float]:
        x = x + self.c.data_noise * draw("data", RESOLUTION**2).view(x.shape)
        x_q = self.samples(draw)
        if "variational" not in self.nets:
            e_p, e_q = self.energy(torch.cat([x, x_q])).split(BATCH)
            loss = e_p.sum() / BATCH - e_q.sum() / BATCH + self.c.lambda_u * ((e_p**2).mean() + (e_q**2).mean())
            self.step("energy", loss, ENERGY_LR)
            return {"loss_energy": loss.item(), "energy_real": e_p.mean().item(), "energy_fake": e_q.mean().item()}
        forms = FORMS[self.c.divergence]
        h_p, h_q = self.nets["variational"](torch.cat([x, x_q]), ALPHA).split(BATCH)
        with torch.no_grad():
            e_p, e_q = self.energy(torch.cat([x, x_q])).split(BATCH)
        bound = forms(h_p + e_p, self.c.order)[0].mean() - forms(h_q + e_q, self.c.order)[1].mean()
        self.step("variational", -bound + self.c.lambda_h * ((h_p**2).mean() + (h_q**2).mean()), LR)
        # theta at the new omega: E_p A + E_q[E B] - E_q[E] E_q[B] - E_q B, B of the covariance held
        h_p, h_q = (h.detach() for h in self.nets["variational"](torch.cat([x, x_q]), ALPHA).split(BATCH))
        e_p, e_q = self.energy(torch.cat([x, x_q])).split(BATCH)
        A, B = forms(h_p + e_p, self.c.order)[0], forms(h_q + e_q, self.c.order)[1]
        covariance = (e_q * B.detach()).mean() - e_q.mean() * B.detach().mean()
        loss = A.mean() + covariance - B.mean() + self.c.lambda_u * ((e_p**2).mean() + (e_q**2).mean())
        self.step("energy", loss, ENERGY_LR)
        if "generator" in self.nets:
            self.step("generator", ((self.nets["generator"](draw("latent", 4), ALPHA) - x_q) ** 2).mean(), LR)
        return {"bound": bound.item(), "loss_energy": loss.item(), "energy_real": e_p.mean().item(), "energy_fake": e_q.mean().item()}


def play(module, config, nets: dict, device, stage: int, rounds: int, micro_batch: int = 0, dtype=torch.float64):
    """Measures of each round, all parameters at the end and the buffer; the engines are freed."""
    players = {name: new_player(name, copy.deepcopy(net), ADAM, ZeroConfig(stage), "fp32", device) for name, net in nets.items()}
    one, measures = module.Objective(config, 4, players), []
    for i in range(rounds):
        draw = draw_of(i, dtype)
        batch = one.batch(images(i, dtype).to(device), ALPHA, lambda *what, draw=draw: draw(*what).to(device), 4)
        found = one.round(batch, Rates(LR, ENERGY_LR, 0.5), RESOLUTION, True, micro_batch)
        measures.append({name: value.item() for name, value in found.items()})
    weights = {f"{name}/{n}": w for name, p in players.items() for n, w in p.gather("weight").items()}
    for p in players.values():
        p.destroy()
    return measures, weights, one.carried().get(NAME, (torch.empty(0), 0))[0].cpu()


def systems():
    yield pytest.param(contrastive_divergence, contrastive_divergence.Config(chains=CHAINS), id="contrastive_divergence")
    for name, order in DIVERGENCES:
        config = f_ebm.Config(divergence=name, order=order, limit=50.0, lambda_h=0.3, chains=CHAINS)
        yield pytest.param(f_ebm, config, id=f"{name} {order}")
    yield pytest.param(f_ebm, dataclasses.replace(config, sampler="generator"), id="generator")


@pytest.mark.parametrize("module,config", systems())
def test_rounds_agree_with_plain_autograd(module, config, world, plain, in_double):
    nets = {name: net.double() for name, net in start(config.players()).items()}
    before = {f"{name}/{n}": p.detach().clone() for name, net in nets.items() for n, p in net.named_parameters()}
    reference = Reference(copy.deepcopy(nets), config)
    wanted = [reference.round(images(i), draw_of(i)) for i in range(3)]
    found, weights, pictures = play(module, config, nets, world.device, 0, 3)
    for theirs, ours in zip(wanted, found, strict=True):
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name
    parameters = {f"{name}/{n}": p.detach() for name, net in reference.nets.items() for n, p in net.named_parameters()}
    assert plain.worst(before, parameters) > LR
    assert plain.worst(weights, parameters) < 1e-6  # they are gathered in fp32
    assert reference.buffer is None or torch.equal(pictures.double(), torch.stack(reference.buffer).flatten())


@pytest.mark.parametrize("module,config", [next(systems()), *list(systems())[-2:]])
def test_micro_batches_give_the_whole_batchs_step(module, config, world, plain, in_double):
    nets = {name: net.double() for name, net in start(config.players()).items()}
    whole = play(module, config, nets, world.device, 0, 3)
    for micro_batch in (1, 2):
        parts = play(module, config, nets, world.device, 0, 3, micro_batch)
        assert plain.worst(whole[1], parts[1]) < 1e-6  # they are gathered in fp32
        assert torch.equal(whole[2], parts[2])
        for name, value in whole[0][-1].items():
            assert parts[0][-1][name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("module,config", [next(systems()), list(systems())[-1]])
def test_every_zero_stage_agrees(module, config, world, plain):
    """Stage 0 was compared with plain autograd; here in fp32, where a picture's last bit may round the other way: two rounds."""
    nets = start(config.players())
    ends = [play(module, config, nets, world.device, stage, 2, dtype=torch.float32) for stage in range(4)]
    for other in ends[1:]:
        assert plain.worst(ends[0][1], other[1]) < 1e-5
        assert ((ends[0][2].int() - other[2].int()).abs() <= 1).all()
    assert plain.worst(ends[0][1], {f"{name}/{n}": p.detach() for name, net in nets.items() for n, p in net.named_parameters()}) > LR


def test_measures_are_those_of_some_player(world):
    for module, config in (f_ebm, f_ebm.Config(sampler="generator")), (contrastive_divergence, contrastive_divergence.Config()):
        config.chains = CHAINS
        (measures,), _, _ = play(module, config, start(config.players()), world.device, 0, 1, dtype=torch.float32)
        assert set(measures) == {term for terms in module.Objective.TERMS.values() for term in terms}
        assert set(module.Objective.LINE.values()) <= set(measures) and set(module.Objective.TERMS) == set(config.players())


@pytest.mark.parametrize(
    "bad",
    [{"lambda_u": -1.0}, {"lambda_h": math.nan}, {"data_noise": -0.1}, {"limit": 0.0}, {"divergence": "wasserstein"},
     {"divergence": "alpha", "order": 1.0}, {"sampler": "gibbs"}, {"chains": ChainsConfig(steps=0)}],
    ids=str,
)  # fmt: skip
def test_meaningless_values_are_refused_in_one_line(bad):
    for module in (f_ebm, contrastive_divergence):
        known = {field.name for field in dataclasses.fields(module.Config)}
        if bad.keys() <= known:
            with pytest.raises(HiresError, match=rf"^objective\.({'|'.join(bad)})[^\n]*wanted[^\n]*$"):
                objectives.check(module.Config(**bad), NetworkConfig(), 1)
