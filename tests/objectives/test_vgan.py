"""vgan, gan, wgan and vcd against plain autograd of the papers' equations, in the middle of a fade; stages, micro-batches, worlds."""

import copy
import dataclasses
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file
import torch
from torch.distributions import Bernoulli
import torch.nn.functional as F

from hires import networks, objectives
from hires.errors import HiresError
from hires.networks import NetworkConfig, batch_norm
from hires.objectives import SYSTEMS
from hires.objectives.base import Rates
from hires.objectives.corruption import corrupted, size_of
from hires.objectives.vgan import batch_entropy, mean_of_all
from hires.training.player import OptimizerConfig, ZeroConfig, new_player

D, BATCH, RESOLUTION, ALPHA, EXPERTS = 6, 8, 16, 0.4, 5
LR, ENERGY_LR = 2e-3, 1e-3
ADAM = OptimizerConfig(beta1=0.3, beta2=0.9, eps=1e-3, clip=30.0)  # an eps that does not turn rounding into steps
SHAPE = NetworkConfig(latent=D, channels_base=64, channels_max=8, convs=1, image_channels=1)
WORLDS = Path(__file__).parents[1] / "processes" / "vgan_ranks.py"
OPTIONS = {
    "vgan": {"experts": EXPERTS, "range": 50.0, "lambda_s": 0.02},
    "gan": {"range": 50.0, "lambda_s": 0.02},
    "gan corrupted": {"range": 50.0, "lambda_s": 0.02, "energy_sees": "samples_and_corrupted"},
    "gan pairs": {"range": 50.0, "lambda_s": 0.02, "contrast": "pairs", "energy_sees": "samples_and_corrupted", "r1": 2.0, "r1_every": 3},
    "wgan": {"range": 50.0, "lambda_gp": 3.0},
    "vcd": {"experts": EXPERTS, "range": 50.0, "rho": 0.7},
}
CASES = [(name, steps) for name in OPTIONS for steps in (1, 3) if (name, steps) != ("wgan", 3)]
STAGES = [(name, stage) for name in OPTIONS for stage in range(4) if (name, stage) not in (("wgan", 3), ("gan pairs", 3))]


def settings(name: str, steps: int = 1):
    of = {} if name == "wgan" else {"generator_steps": steps}
    return SYSTEMS[name.split()[0]].Settings(**OPTIONS[name], **of)


def start(plain, config) -> dict[str, torch.nn.Module]:
    system, nets = SYSTEMS[config.name], {}
    for player in config.players():
        nets[player] = system.network(config, SHAPE, player, RESOLUTION, True)
        networks.initialise(nets[player], lambda parameter, player=player: plain.stream(f"{player}/{parameter}"))
    with torch.no_grad():
        head = nets["energy"].levels["4x4"].head
        head.weight.mul_(4)
        if hasattr(config, "experts"):
            head.bias[0] = -math.log(1e-4)  # one expert beyond the clip for some images, where it has no gradient
    return nets


def data(plain, rounds: int = 3, dtype=torch.float32) -> list[tuple]:
    """Images of each round, and its draw(stream, size)."""

    def drawn(i):
        return lambda stream, size: torch.randn(BATCH, size, generator=plain.stream(f"{i}/{stream}")).to(dtype)

    return [(d["x"].to(dtype), drawn(i)) for i, d in enumerate(plain.draw(rounds, BATCH, D, 1, RESOLUTION))]


def play(config, nets, rounds, device, stage: int = 1, micro_batch: int = 0) -> tuple[list[dict], dict]:
    """Measures of each round, and all parameters at the end; the engines are freed."""
    players = {n: new_player(n, copy.deepcopy(net), ADAM, ZeroConfig(stage), "fp32", device) for n, net in nets.items()}
    one, measures = SYSTEMS[config.name](config, D, players), []
    for x, draw in rounds:
        batch = one.batch(x.to(device), ALPHA, lambda *what, draw=draw: draw(*what).to(device), D)
        found = one.round(batch, Rates(LR, ENERGY_LR, 0.5), RESOLUTION, True, micro_batch)
        measures.append({name: value.item() for name, value in found.items()})
    weights = {f"{p.name}/{n}": w for p in players.values() for n, w in p.gather("weight").items() if n in p.shapes}
    for p in players.values():
        p.destroy()
    return measures, weights


class Reference:
    """P3's algorithm with one graph through all networks; sums over experts divided by their number."""

    def __init__(self, config, nets):
        self.config, self.nets = config, nets
        self.adams = {n: torch.optim.Adam(net.parameters(), betas=(ADAM.beta1, ADAM.beta2), eps=ADAM.eps) for n, net in nets.items()}

    def p(self, x):
        return torch.sigmoid(self.nets["energy"](x, ALPHA, True)).clamp(1e-4, 1 - 1e-4)

    def U(self, x):
        if self.config.name == "wgan":
            return self.nets["energy"](x, ALPHA).mean()
        if self.config.name == "gan":
            return -F.logsigmoid(self.scores(x)).mean()
        return Bernoulli(probs=self.p(x)).entropy().sum(1).mean() / EXPERTS

    def scores(self, images):
        """A round's batch at a time, for an energy with batch norm: real images, samples and corrupted images each by themselves."""
        return torch.cat([self.nets["energy"](part, ALPHA, True) for part in images.split(BATCH)])

    def H(self, x):
        return Bernoulli(probs=self.p(x).mean(0)).entropy().sum() / EXPERTS

    def energy_loss(self, x, x_tilde, draw):
        if self.config.name == "wgan":
            return self.U(x) - self.U(x_tilde) + self.penalty(x, x_tilde, draw("between", 1))
        squares = sum((self.scores(images) ** 2).mean() for images in (x, x_tilde))
        return self.told_apart(x, x_tilde) + self.config.lambda_s * squares

    def steepness(self, *kinds):
        """r1_every gamma / 2 of the mean squared slope over real images plus that over samples, image by image; gamma at 16x16."""
        total = 0.0
        for image in torch.cat(kinds) if getattr(self.config, "r1", 0) else ():
            x = image[None].requires_grad_()
            (slope,) = torch.autograd.grad(self.nets["energy"](x, ALPHA, True).sum(), x, create_graph=True)
            total = total + self.config.r1_every * self.config.r1 / 4 / 2 * slope.square().sum() / BATCH
        return total

    def penalty(self, x, x_tilde, normal):
        """lambda_gp times the mean squared distance of |dU/dx| from 1 on the line from x_tilde to x, picture by picture."""
        found = []
        for a, b, n in zip(x, x_tilde, normal, strict=True):
            u = 0.5 + 0.5 * torch.erf(n / math.sqrt(2))
            between = (b + u * (a - b))[None].requires_grad_()
            (slope,) = torch.autograd.grad(self.nets["energy"](between, ALPHA).sum(), between, create_graph=True)
            found.append((slope.square().sum().sqrt() - 1) ** 2)
        return self.config.lambda_gp * torch.stack(found).mean()

    def told_apart(self, x, x_tilde):
        if self.config.name == "gan" and self.config.contrast == "pairs":  # each real image beside its sample, and its corrupted image
            s_x, s_f = (self.nets["energy"](images, ALPHA, True) for images in (x, x_tilde))
            return -torch.stack([F.logsigmoid(a - b) for part in s_f.split(len(x)) for a, b in zip(s_x, part, strict=True)]).mean()
        if self.config.name == "gan":
            return self.U(x) - F.logsigmoid(-self.scores(x_tilde)).mean()
        return self.U(x) - self.U(x_tilde) - self.H(x)

    def pull(self, x_tilde, x):
        if self.config.name == "gan" and self.config.contrast == "pairs":
            return -F.logsigmoid(self.nets["energy"](x_tilde, ALPHA, True) - self.nets["energy"](x, ALPHA, True)).mean()
        return self.U(x_tilde) - (self.H(x_tilde) if hasattr(self.config, "experts") else 0)

    def excess(self, x):
        return self.config.range * (torch.clamp(x.abs(), min=1) - 1).pow(2).mean()

    def synthesis(self, x, draw, k):
        """(x_tilde, reconstruction, what is reconstructed) of the k-th generator step; wgan's has latents of its own."""
        G, stream = self.nets["generator"], "" if k == 0 else str(k)
        if self.config.name != "vcd":
            return G(draw(f"latent{stream}", D), ALPHA), None, None
        c = x[1::2]
        a = self.nets["inference"](c, ALPHA)[0]
        keep = (draw(f"coin{stream}", D)[1::2] > 0).to(a)
        mixed = keep * a + (1 - keep) * draw(f"mixing{stream}", D)[1::2]
        return G(mixed, ALPHA), G(a, ALPHA), c

    def step(self, names, loss, lr):
        gradients = {n: torch.autograd.grad(loss, list(self.nets[n].parameters()), retain_graph=True) for n in names}
        for n in names:
            for p, g in zip(self.nets[n].parameters(), gradients[n], strict=True):
                p.grad = g.clone()
            torch.nn.utils.clip_grad_norm_(self.nets[n].parameters(), ADAM.clip)
            self.adams[n].param_groups[0]["lr"] = lr
            self.adams[n].step()

    def round(self, x, draw):
        real = x[0::2] if self.config.name == "vcd" else x
        x_tilde = self.synthesis(x, draw, 0)[0].detach()
        fakes = x_tilde
        if self.config.name == "gan" and self.config.energy_sees == "samples_and_corrupted":
            fakes = torch.cat([x_tilde, corrupted(x, draw("corruption", size_of(x)))])
        loss = self.energy_loss(real, fakes, draw)
        seen = {"loss_energy": loss, "energy_real": self.U(real), "energy_fake": self.U(x_tilde)}
        self.step(["energy"], loss + self.steepness(real, x_tilde), ENERGY_LR)
        for k in [1] if self.config.name == "wgan" else range(self.config.generator_steps):
            x_tilde, c_hat, c = self.synthesis(x, draw, k)
            loss = self.pull(x_tilde, real)
            if self.config.name == "vcd":
                R = ((c_hat - c) ** 2).mean()
                loss = self.config.rho * loss + (1 - self.config.rho) * R + self.excess(c_hat)
                seen.setdefault("R", R)
            self.step([n for n in self.nets if n != "energy"], loss + self.excess(x_tilde), LR)
        return {name: value.item() for name, value in seen.items()}

    def parameters(self):
        return {f"{name}/{n}": p.detach() for name, net in self.nets.items() for n, p in net.named_parameters()}


@pytest.mark.parametrize("name,steps", CASES)
def test_rounds_agree_with_plain_autograd(name, steps, world, plain, in_double):
    config = settings(name, steps)
    nets = {n: net.double() for n, net in start(plain, config).items()}
    reference = Reference(config, copy.deepcopy(nets))
    before, rounds = {n: p.clone() for n, p in reference.parameters().items()}, data(plain, dtype=torch.float64)
    if hasattr(config, "experts"):
        beyond = (torch.sigmoid(reference.nets["energy"](rounds[0][0], ALPHA, True)) - 0.5).abs() > 0.5 - 1e-4
        assert 0 < beyond.sum() < beyond.numel()
    expected = [reference.round(*each) for each in rounds]
    found, weights = play(config, nets, rounds, world.device, stage=0)
    for theirs, ours in zip(expected, found, strict=True):
        for measure, value in theirs.items():
            assert ours[measure] == pytest.approx(value, abs=1e-6), measure
    still = "energy/levels.4x4.head.bias" if name == "wgan" else ""  # its energy's level is free
    moved = {n: plain.worst({n: before[n]}, {n: p}) for n, p in reference.parameters().items() if n != still}
    assert min(moved.values()) > 1e-5  # all of it moved
    assert plain.worst(weights, reference.parameters()) < 1e-6  # gathered in fp32


@pytest.mark.parametrize("sees", ["samples", "samples_and_corrupted"])
def test_a_gan_on_dcgans_networks_normalises_each_kind_of_images_by_itself(sees, world, plain, in_double):
    config = SYSTEMS["gan"].Settings(lambda_s=0.02, energy_sees=sees)
    shape = NetworkConfig(kind="dcgan32", latent=D, width=0.05, image_channels=1)
    nets = {player: SYSTEMS["gan"].network(config, shape, player, 32, False) for player in config.players()}
    for player, network in nets.items():
        networks.initialise(network, lambda parameter, player=player: plain.stream(f"{player}/{parameter}"))
    nets = {player: network.double() for player, network in nets.items()}
    assert batch_norm.layers(nets["energy"])
    reference = Reference(config, copy.deepcopy(nets))
    for network in reference.nets.values():
        network.train()
    rounds = [(F.interpolate(x, size=32), draw) for x, draw in data(plain, dtype=torch.float64)]
    expected = [reference.round(*each) for each in rounds]
    found, weights = play(config, nets, rounds, world.device, stage=0)
    assert [one["loss_energy"] for one in found] == pytest.approx([one["loss_energy"] for one in expected], abs=1e-6)
    assert plain.worst(weights, reference.parameters()) < 1e-6


@pytest.mark.parametrize("name,stage", STAGES)
def test_every_zero_stage_agrees_with_plain_autograd(name, stage, world, plain):
    config = settings(name, 2)
    nets, rounds = start(plain, config), data(plain)
    reference = Reference(config, copy.deepcopy(nets))
    for each in rounds:
        reference.round(*each)
    assert plain.worst(play(config, nets, rounds, world.device, stage)[1], reference.parameters()) < 1e-5


@pytest.mark.parametrize("name", OPTIONS)
def test_micro_batches_give_the_whole_batchs_step(name, world, plain, in_double):
    config = settings(name, 2)
    nets, rounds = {n: net.double() for n, net in start(plain, config).items()}, data(plain, dtype=torch.float64)
    whole, weights = play(config, nets, rounds, world.device, stage=0)
    for micro_batch in (2, 4):
        parts, split = play(config, nets, rounds, world.device, stage=0, micro_batch=micro_batch)
        assert plain.worst(weights, split) < 1e-6
        for measure in whole[-1].keys() - {"diversity"}:  # a ratio of spreads inside each part
            assert parts[-1][measure] == pytest.approx(whole[-1][measure], abs=1e-6), measure


def test_the_batch_entropy_has_the_value_and_gradient_of_the_whole_batch(world, plain):
    p = torch.rand(12, EXPERTS, generator=plain.stream("p"), dtype=torch.float64, requires_grad=True)
    direct = Bernoulli(probs=p.mean(0)).entropy().mean()
    (expected,) = torch.autograd.grad(direct, p)
    parts = p.split(4)
    mean = mean_of_all(list(parts))
    by_parts = sum(batch_entropy(part, mean) for part in parts) / 3
    (found,) = torch.autograd.grad(by_parts, p)
    assert by_parts.item() == pytest.approx(direct.item(), abs=1e-12)
    assert torch.allclose(found, expected, atol=1e-12)


def test_the_energys_loss_is_lowest_for_experts_that_split_the_data_in_halves(world):
    """P3 §4: on real images each expert is to be sure of each and undecided over all of them."""
    loss = SYSTEMS["vgan"](settings("vgan"), D, {"generator": None, "energy": None}).energy_loss
    fake = torch.zeros(8, 1)
    halves, one_side = torch.tensor([[9.0], [-9.0]] * 4), torch.full((8, 1), 9.0)
    values = [loss(scores, fake, None)[0].item() for scores in (halves, one_side, fake)]
    assert values[0] == min(values)
    assert values[0] == pytest.approx(-2 * math.log(2), abs=0.01)


@pytest.fixture(scope="module")
def worlds(ranks, tmp_path_factory) -> Path:
    """A folder with all weights SYSTEM-W.safetensors after three rounds on W processes."""
    out = tmp_path_factory.mktemp("worlds")
    for size in (1, 2, 4):
        ranks(size, WORLDS, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_one_two_and_four_processes_agree(name, worlds, plain):
    one, two, four = (load_file(worlds / f"{name}-{size}.safetensors") for size in (1, 2, 4))
    begin = {f"{player}/{n}": p.detach() for player, net in start(plain, settings(name, 2)).items() for n, p in net.named_parameters()}
    assert plain.worst(one, begin) > LR
    assert plain.worst(one, two) < 1e-5 and plain.worst(one, four) < 1e-5


BAD = [{"experts": 0}, {"generator_steps": 0}, {"range": -1.0}, {"range": math.nan}, {"lambda_s": -1.0}, {"rho": -0.1}, {"rho": 1.5}]
BAD += [{"critic_steps": 0}, {"lambda_gp": -1.0}, {"contrast": "odd"}, {"r1": -1.0}, {"r1_every": 0}]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_meaningless_values_are_refused_in_one_line(bad):
    for name, system in SYSTEMS.items():
        if name in OPTIONS and bad.keys() <= {f.name for f in dataclasses.fields(system.Settings)}:
            with pytest.raises(HiresError) as refusal:
                objectives.check(system.Settings(**bad), SHAPE, 1)
            assert "\n" not in str(refusal.value) and next(iter(bad)) in str(refusal.value)


@pytest.mark.parametrize(("kind", "stage", "told"), [("dcgan32", 1, r"dcgan32.*batch norm mixes"), ("growing", 3, r"zero\.stage=3")])
def test_a_gans_penalty_is_refused_where_it_cannot_be(kind, stage, told):
    with pytest.raises(HiresError, match=rf"objective\.r1.*{told}"):
        objectives.check(SYSTEMS["gan"].Settings(r1=1.0), NetworkConfig(kind=kind), stage)


@pytest.mark.parametrize("name", ["vgan", "gan", "vcd"])
def test_fixed_networks_are_refused(name):
    with pytest.raises(HiresError, match=f"p2.*{name}"):
        objectives.check(settings(name), NetworkConfig(kind="p2"), 1)
