"""The round against the divergences themselves: P2's triangle written with torch.distributions, differentiated for each player.

L = KL(Q || P) + KL(P || Pi) - KL(Q || Pi) is one scalar: theta and phi lower it, alpha raises it; by eq. 17 phi lowers
KL(Q || P) + KL(Q || Pi) instead. Our losses are temperature * L with Pi ~ exp(-U / temperature); nothing else is shared.
"""

import copy
import dataclasses

import pytest
import torch
from torch.distributions import Normal

from hires import networks, objectives
from hires.errors import HiresError
from hires.networks import NetworkConfig
from hires.objectives.base import Rates
from hires.objectives.latent_ebm import EQUATIONS, PLAYERS, UPDATES, Batch, Config, Objective
from hires.training.player import OptimizerConfig, ZeroConfig, new_player

D, BATCH, RESOLUTION, ALPHA = 6, 4, 16, 0.4
PIXELS = RESOLUTION**2
LR, ENERGY_LR = 2e-3, 1e-3
EPS = 1e-3  # of Adam: small enough to adapt, large enough not to turn rounding into steps (fp32, real engines)
ADAM = OptimizerConfig(beta1=0.3, beta2=0.9, eps=EPS, clip=30.0)
OFF = {"lambda_u": 0.0, "r1": 0.0, "r1_z": 0.0, "range": 0.0, "reconstruct_box": 1, "logvar_min": 0.0, "logvar_max": 0.0}
PLAIN = Config(kappa_max=768.0, beta=0.7, **OFF)
SHAPE = NetworkConfig(latent=D, channels_base=64, channels_max=8, convs=1, image_channels=1)


def start(plain, config: Config) -> dict[str, torch.nn.Module]:
    nets = {name: Objective.network(config, SHAPE, name, RESOLUTION, True) for name in PLAYERS}
    for name, net in nets.items():
        networks.initialise(net, lambda parameter, name=name: plain.stream(f"{name}/{parameter}"))
    return nets


def game(config: Config, nets: dict, device, stage: int = 1) -> Objective:
    return Objective(config, D, {n: new_player(n, copy.deepcopy(net), ADAM, ZeroConfig(stage), "fp32", device) for n, net in nets.items()})


def play(one: Objective, rounds: list[dict], due=lambda i: True, micro_batch: int = 0) -> tuple[list[dict], dict]:
    """Measures of each round, and all parameters at the end; the engines are freed."""
    measures = []
    for i, data in enumerate(rounds):
        x, z, eps = (data[key].to(one.G.device) for key in ("x", "z", "eps"))
        found = one.round(Batch(x, z, eps, ALPHA), Rates(LR, ENERGY_LR, 0.5), RESOLUTION, due(i), micro_batch)
        measures.append({name: value.item() for name, value in found.items()})
    weights = {f"{p.name}/{n}": w for p in (one.G, one.U, one.I) for n, w in p.gather("weight").items() if n in p.shapes}
    for p in (one.G, one.U, one.I):
        p.destroy()
    return measures, weights


class Divergences:
    """The triangle of joint densities on three networks, in nats, with one graph through all."""

    def __init__(self, plain, config: Config, nets: dict):
        clamp = (config.logvar_min, config.logvar_max) if config.logvar_min < config.logvar_max else None
        box = min(config.reconstruct_box, RESOLUTION // 8)
        adam = {"betas": (ADAM.beta1, ADAM.beta2), "eps": EPS}
        self.plain = plain.Reference(nets, plain.Settings(clamp=clamp, box=box, range=config.range, adam=adam, clip=ADAM.clip))
        self.G, self.U, self.I = (nets[name] for name in PLAYERS)
        self.config, self.temperature = config, config.beta
        boxes = PIXELS / box**2
        self.deviation = (self.temperature * boxes / (2 * config.kappa_pixel * RESOLUTION**2)) ** 0.5  # of p(x | z), of each box mean

    def posterior(self, x, eps):
        mu, logvar = self.plain.posterior(x, ALPHA)
        q = Normal(mu, logvar.exp().sqrt())
        return q, q.loc + q.scale * eps

    def boxes(self, x):
        box = self.plain.s.box
        return x.reshape(len(x), 1, RESOLUTION // box, box, RESOLUTION // box, box).mean((3, 5))

    def parts(self, x, z, eps):
        """Single-sample log q(z~ | x), log p(z~), log p(x | z~), U(x, z~) / T, U(x~, z) / T of each pair, and x^."""
        q, z_tilde = self.posterior(x, eps)
        x_hat = self.G(z_tilde, ALPHA)
        log_p = Normal(self.boxes(x_hat), self.deviation).log_prob(self.boxes(x)).flatten(1).sum(1)
        log_prior = Normal(torch.zeros_like(z_tilde), 1).log_prob(z_tilde).sum(1)
        return q.log_prob(z_tilde).sum(1), log_prior, log_p, self.U(x, z_tilde, ALPHA) / self.temperature, x_hat

    def inference_loss(self, x, z, eps):
        """Over phi, times the temperature; the marginal of the data and Pi's normaliser have no say in it."""
        log_q, log_prior, log_p, u, x_hat = self.parts(x, z, eps)
        kl_q_p, kl_q_pi = (log_q - log_prior - log_p).mean(), (log_q + u).mean()
        loss = kl_q_p - kl_q_pi if self.config.inference_loss == "eq15" else kl_q_p + kl_q_pi
        return self.temperature * loss + self.plain.excess(x_hat)

    def generator_loss(self, x, z, eps):
        """Over theta: KL(Q || P) + KL(P || Pi), of which theta reaches log p(x | z~) and U(x~, z)."""
        _, z_tilde = self.posterior(x, eps)
        x_hat, x_tilde = self.G(z_tilde, ALPHA), self.G(z, ALPHA)
        log_p = Normal(self.boxes(x_hat), self.deviation).log_prob(self.boxes(x)).flatten(1).sum(1)
        loss = (-log_p + self.U(x_tilde, z, ALPHA) / self.temperature).mean()
        return self.temperature * loss + self.plain.excess(x_hat) + self.plain.excess(x_tilde)

    def energy_loss(self, x, z, eps, due):
        """Over alpha: KL(Q || Pi) - KL(P || Pi), in which Pi's normaliser cancels; and what bounds the energy."""
        config, B = self.config, len(x)
        _, z_tilde = self.posterior(x, eps)
        pairs = torch.cat([x, self.G(z, ALPHA)]), torch.cat([z_tilde, z])
        u = self.U(*pairs, ALPHA)
        loss = self.temperature * (u[:B] / self.temperature - u[B:] / self.temperature).mean()
        loss = loss + config.lambda_u * ((u[:B] ** 2).mean() + (u[B:] ** 2).mean())
        if due and (config.r1 or config.r1_z):
            pairs = tuple(t.detach().requires_grad_() for t in pairs)
            g_x, g_z = torch.autograd.grad(self.U(*pairs, ALPHA).sum(), pairs, create_graph=True)
            real, fake = ((g_x[i] ** 2).sum((1, 2, 3)) for i in (slice(B), slice(B, None)))
            real_z, fake_z = ((g_z[i] ** 2).sum(1) for i in (slice(B), slice(B, None)))
            gamma = config.r1 / 4  # at 16x16
            loss = loss + config.r1_every / 2 * (gamma * (real.mean() + fake.mean()) + config.r1_z * (real_z.mean() + fake_z.mean()))
        return loss, {"energy_real": u[:B].mean(), "energy_fake": u[B:].mean()}

    def round(self, x, z, eps, due):
        loss, seen = self.energy_loss(x, z, eps, due)
        self.plain.step("energy", self.plain.gradients("energy", loss), ENERGY_LR)
        phi = self.plain.gradients("inference", self.inference_loss(x, z, eps))
        if self.config.updates == "published":
            self.plain.step("inference", phi, LR)
        theta = self.plain.gradients("generator", self.generator_loss(x, z, eps))
        if self.config.updates == "energy_first":
            self.plain.step("inference", phi, LR)
        self.plain.step("generator", theta, LR)
        return {name: value.item() for name, value in seen.items()}


OPTIONS = {
    "plain": {},
    "energy L2": {"lambda_u": 0.2},
    "clamp": {"logvar_min": -1.0, "logvar_max": 0.5},
    "penalty on images": {"r1": 40.0, "r1_every": 2},
    "penalty on latents": {"r1_z": 3.0},
    "boxes": {"reconstruct_box": 2},
    "range": {"range": 50.0},
    "softplus": {"energy": "softplus"},
    "all": {"lambda_u": 0.1, "logvar_min": -8.0, "logvar_max": 4.0, "r1": 10.0, "r1_z": 1.0, "range": 9.0, "reconstruct_box": 2},
}
CASES = [(updates, "eq15", option) for updates in UPDATES for option in OPTIONS]
CASES += [(updates, "eq17", option) for updates in UPDATES for option in ("plain", "all")]


@pytest.mark.parametrize("updates,equation,option", CASES)
def test_a_round_is_a_step_on_the_divergences(updates, equation, option, world, plain, in_double):
    """In double precision, where no leaky unit flips for rounding's sake; engines in fp32 follow below."""
    config = dataclasses.replace(PLAIN, updates=updates, inference_loss=equation, **OPTIONS[option])
    nets = {name: net.double() for name, net in start(plain, config).items()}
    before = {f"{name}/{n}": p.detach().clone() for name, net in nets.items() for n, p in net.named_parameters()}
    rounds = plain.draw(3, BATCH, D, 1, RESOLUTION, dtype=torch.float64)
    reference = Divergences(plain, config, copy.deepcopy(nets))
    expected = [reference.round(d["x"], d["z"], d["eps"], due=i != 1) for i, d in enumerate(rounds)]
    found, weights = play(game(config, nets, world.device, stage=0), rounds, due=lambda i: i != 1)
    for theirs, ours in zip(expected, found, strict=True):
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, abs=1e-5, rel=1e-5), name
    parameters = {f"{name}/{n}": p.detach() for name, net in reference.plain.nets.items() for n, p in net.named_parameters()}
    for name in PLAYERS:
        moved = [(before[key] - parameters[key]).abs().max() for key in parameters if key.startswith(name)]
        assert max(moved) > 0.5 * (ENERGY_LR if name == "energy" else LR)
    assert plain.worst(weights, parameters) < 1e-5


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("updates", UPDATES)
def test_every_zero_stage_takes_the_same_steps(updates, stage, world, plain):
    penalty = {"r1": 0.0, "r1_z": 0.0} if stage == 3 else {"r1": 10.0, "r1_z": 1.0}
    config = dataclasses.replace(PLAIN, updates=updates, lambda_u=0.1, **penalty)
    nets, rounds = start(plain, config), plain.draw(3, BATCH, D, 1, RESOLUTION)
    reference = Divergences(plain, config, copy.deepcopy(nets))
    for d in rounds:
        reference.round(d["x"], d["z"], d["eps"], due=True)
    _, weights = play(game(config, nets, world.device, stage), rounds)
    parameters = {f"{name}/{n}": p.detach() for name, net in reference.plain.nets.items() for n, p in net.named_parameters()}
    assert plain.worst(weights, parameters) < 1e-5


@pytest.mark.campaign(2)
@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("updates", UPDATES)
def test_micro_batches_give_the_whole_batchs_step(updates, equation, world, plain):
    """Not for softplus: there each pass turns the singular vectors, and two micro-batches are two passes."""
    config = dataclasses.replace(PLAIN, updates=updates, inference_loss=equation, **OPTIONS["all"])
    nets, rounds = start(plain, config), plain.draw(3, BATCH, D, 1, RESOLUTION)
    whole, weights = play(game(config, nets, world.device), rounds)
    for micro_batch in (1, 2):
        parts, split = play(game(config, nets, world.device), rounds, micro_batch=micro_batch)
        assert plain.worst(weights, split) < 1e-5
        for name in whole[-1].keys() - {"rho", "rho_z", "diversity"}:  # those are ratios within a part
            assert parts[-1][name] == pytest.approx(whole[-1][name], rel=1e-3, abs=1e-4), name


# ---------------------------------------------------------------------------------------------- the entropy of q


def test_the_entropy_cancels_in_eq_15_and_stands_twice_in_eq_17(plain, in_double):
    """With log q and KL(Q || P) as single samples, the gradient of (mu, logvar) is that of recon + |z~|^2 / 2 - U to rounding."""
    nets = {name: net.double() for name, net in start(plain, PLAIN).items()}
    (data,) = plain.draw(1, BATCH, D, 1, RESOLUTION, dtype=torch.float64)
    x, z, eps = (data[key] for key in ("x", "z", "eps"))
    mu, logvar = (t.detach().requires_grad_() for t in nets["inference"](x, ALPHA))
    gradients = {}
    for equation in EQUATIONS:
        reference = Divergences(plain, dataclasses.replace(PLAIN, inference_loss=equation), nets)
        reference.plain.I = lambda x, alpha: (mu, logvar)
        log_q, log_prior, log_p, u, _ = reference.parts(x, z, eps)
        (entropy,) = torch.autograd.grad(log_q.mean(), logvar, retain_graph=True)
        assert entropy == pytest.approx(-0.5 / BATCH)  # each divergence does hold it
        sign = -1 if equation == "eq15" else 1
        without = reference.temperature * (-log_prior - log_p + sign * u).mean()
        explicit = reference.inference_loss(x, z, eps)
        gradients[equation] = [torch.autograd.grad(loss, (mu, logvar), retain_graph=True) for loss in (explicit, without)]
    explicit, without = gradients["eq15"]
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(explicit, without, strict=True))
    explicit, without = gradients["eq17"]
    assert (explicit[0] - without[0]).abs().max() < 1e-12
    assert (explicit[1] - without[1]) == pytest.approx(-PLAIN.beta / BATCH)  # 2 T d(log q)/d(logvar)


def test_without_an_entropy_nothing_but_the_clamp_holds_the_variance(world, plain):
    """What eq. 15 does to the log-variance, beside eq. 17: the reason for the clamp."""
    drift = {}
    for equation in EQUATIONS:
        config = dataclasses.replace(PLAIN, inference_loss=equation, beta=20.0, kappa_max=1.0)
        measures, _ = play(game(config, start(plain, config), world.device), plain.draw(6, BATCH, D, 1, RESOLUTION))
        drift[equation] = measures[-1]["logvar"] - measures[0]["logvar"]
    assert drift["eq15"] < 0 < drift["eq17"]


# ---------------------------------------------------------------------------------------------- what is measured, what is refused


def test_measures_say_what_they_are_called(world, plain):
    config = dataclasses.replace(PLAIN, lambda_u=0.1)
    nets, (data,) = start(plain, config), plain.draw(1, BATCH, D, 1, RESOLUTION)
    (m,), _ = play(game(config, nets, world.device), [data])
    x, z, eps = (data[key] for key in ("x", "z", "eps"))
    with torch.no_grad():
        mu, logvar = nets["inference"](x, ALPHA)
        z_tilde, x_tilde = mu + (logvar / 2).exp() * eps, nets["generator"](z, ALPHA)
        real, fake = nets["energy"](x, z_tilde, ALPHA), nets["energy"](x_tilde, z, ALPHA)
    assert m["energy_gap"] == pytest.approx((fake.mean() - real.mean()).item(), abs=1e-5)
    assert m["energy_size"] == pytest.approx(torch.cat([real, fake]).abs().mean().item(), abs=1e-5)
    assert m["prior"] == pytest.approx(z_tilde.square().mean().item() / 2, rel=1e-4)
    assert m["diversity"] == pytest.approx((x_tilde.var(0).mean() / x.var(0).mean()).sqrt().item(), rel=1e-4)
    known = {term for terms in Objective.TERMS.values() for term in terms}
    assert m.keys() <= known and set(Objective.LINE.values()) <= known


BAD = [
    {"updates": "simultaneous"},
    {"inference_loss": "eq16"},
    {"energy": "tanh"},
    {"r1_every": 0},
    {"beta": -1.0},
    {"kappa_max": float("nan")},
    {"lambda_u": -0.1},
    {"r1": -1.0},
    {"r1_z": -1.0},
    {"reconstruct_box": 3},
    {"range": -1.0},
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_meaningless_values_are_refused_in_one_line(bad):
    with pytest.raises(HiresError) as refusal:
        objectives.check(Config(**bad), NetworkConfig(), zero_stage=1)
    text = str(refusal.value)
    assert "\n" not in text and next(iter(bad)) in text


def test_what_does_not_train_is_refused_in_one_line():
    off = {"r1": 0.0, "r1_z": 0.0}
    objectives.check(Config(**off), NetworkConfig(), zero_stage=3)
    for config, match in [
        (Config(r1=1.0, r1_z=0.0), "r1.*zero"),
        (Config(r1=0.0, r1_z=1.0), "r1_z.*zero"),
        (Config(**off, energy="softplus"), "softplus.*zero"),
    ]:
        objectives.check(config, NetworkConfig(), zero_stage=2)
        with pytest.raises(HiresError, match=match):
            objectives.check(config, NetworkConfig(), zero_stage=3)
    with pytest.raises(HiresError, match=r"dcgan32.*latent_ebm"):
        objectives.check(Config(), NetworkConfig(kind="dcgan32"), zero_stage=1)
