"""The round against the evidence bound itself, written with torch.distributions in double precision; what is refused."""

import copy
import dataclasses

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from hires import config as configuration
from hires import networks, objectives
from hires.checkpoints import reading
from hires.errors import HiresError
from hires.networks import NetworkConfig
from hires.objectives.base import Rates
from hires.objectives.vae import PLAYERS, Batch, Config, Objective
from hires.training.player import OptimizerConfig, ZeroConfig, new_player
from hires.training.trainer import Trainer

D, BATCH, RESOLUTION, ALPHA, LR = 6, 4, 16, 0.4, 2e-3
ADAM = OptimizerConfig(beta1=0.3, beta2=0.9, eps=1e-3, clip=30.0)  # eps: no rounding turned into steps
SHAPE = NetworkConfig(latent=D, channels_base=64, channels_max=8, convs=1, image_channels=1)
PLAIN = Config(kappa_max=300.0, beta=0.7, logvar_min=0.0, logvar_max=0.0, range=0.0)
OPTIONS = {"plain": {}, "all": {"logvar_min": -1.0, "logvar_max": 0.5, "reconstruct_box": 2, "range": 50.0}}


def start(plain) -> dict[str, torch.nn.Module]:
    nets = {name: Objective.network(PLAIN, SHAPE, name, RESOLUTION, True) for name in PLAYERS}
    for name, net in nets.items():
        networks.initialise(net, lambda parameter, name=name: plain.stream(f"{name}/{parameter}"))
    return nets


def play(config: Config, nets: dict, rounds: list[dict], device, stage: int = 0, micro_batch: int = 0) -> tuple[list[dict], dict]:
    """Measures of each round, and all parameters at the end; the engines are freed."""
    players = {n: new_player(n, copy.deepcopy(net), ADAM, ZeroConfig(stage), "fp32", device) for n, net in nets.items()}
    one, measures = Objective(config, D, players), []
    for data in rounds:
        found = one.round(Batch(data["x"].to(device), data["eps"].to(device), ALPHA), Rates(LR, 0.0, 0.5), RESOLUTION, False, micro_batch)
        measures.append({name: value.item() for name, value in found.items()})
    weights = {f"{p.name}/{n}": w for p in players.values() for n, w in p.gather("weight").items() if n in p.shapes}
    for p in players.values():
        p.destroy()
    return measures, weights


def reference(plain, config: Config, nets: dict, rounds: list[dict]) -> tuple[list[float], dict]:
    """Steps on -beta times the single-sample evidence bound of p(x | z) = N(G(z), beta D / (2 kappa)), and its values without constants."""
    nets = copy.deepcopy(nets)
    box, side = config.reconstruct_box, RESOLUTION // config.reconstruct_box
    clamp = (config.logvar_min, config.logvar_max) if config.logvar_min < config.logvar_max else None
    shared = plain.Reference({**nets, "energy": torch.nn.Linear(1, 1)}, plain.Settings(clamp=clamp, range=config.range))
    deviation = (config.beta * side**2 / (2 * config.kappa(RESOLUTION))) ** 0.5
    adams = {n: torch.optim.Adam(net.parameters(), lr=LR, betas=(ADAM.beta1, ADAM.beta2), eps=ADAM.eps) for n, net in nets.items()}
    losses = []
    for data in rounds:
        mu, logvar = shared.posterior(data["x"], ALPHA)
        q = Normal(mu, logvar.exp().sqrt())
        x_hat = nets["generator"](q.loc + q.scale * data["eps"], ALPHA)
        boxes = [t.reshape(BATCH, 1, side, box, side, box).mean((3, 5)) for t in (x_hat, data["x"])]
        likelihood = Normal(boxes[0], deviation)
        log_p = (likelihood.log_prob(boxes[1]) - likelihood.log_prob(boxes[0])).sum((1, 2, 3))
        bound = log_p - kl_divergence(q, Normal(0.0, 1.0)).sum(1)
        loss = -config.beta * bound.mean()
        losses.append(loss.item())
        for net in nets.values():
            net.zero_grad()
        (loss + shared.excess(x_hat)).backward()
        for name, net in nets.items():
            torch.nn.utils.clip_grad_norm_(net.parameters(), ADAM.clip)
            adams[name].step()
    return losses, {f"{name}/{n}": p.detach() for name, net in nets.items() for n, p in net.named_parameters()}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_round_is_a_step_on_the_evidence_bound(option, world, plain, in_double):
    config = dataclasses.replace(PLAIN, **OPTIONS[option])
    nets = {name: net.double() for name, net in start(plain).items()}
    rounds = plain.draw(3, BATCH, D, 1, RESOLUTION, dtype=torch.float64)
    losses, expected = reference(plain, config, nets, rounds)
    measures, weights = play(config, nets, rounds, world.device)
    assert [m["loss"] for m in measures] == pytest.approx(losses, rel=1e-5)
    before = {f"{name}/{n}": p.detach() for name, net in nets.items() for n, p in net.named_parameters()}
    for name in PLAYERS:
        assert max((before[key] - expected[key]).abs().max() for key in expected if key.startswith(name)) > 0.5 * LR
    assert plain.worst(weights, expected) < 1e-6  # gathered in fp32


def test_sharding_takes_the_same_steps(world, plain):
    nets, rounds = start(plain), plain.draw(2, BATCH, D, 1, RESOLUTION)
    _, expected = reference(plain, PLAIN, nets, rounds)
    _, weights = play(PLAIN, nets, rounds, world.device, stage=3)
    assert plain.worst(weights, expected) < 1e-5


def test_micro_batches_give_the_whole_batchs_step(world, plain, in_double):
    config = dataclasses.replace(PLAIN, range=9.0, reconstruct_box=2)
    nets = {name: net.double() for name, net in start(plain).items()}
    rounds = plain.draw(2, BATCH, D, 1, RESOLUTION, dtype=torch.float64)
    whole, weights = play(config, nets, rounds, world.device)
    parts, split = play(config, nets, rounds, world.device, micro_batch=1)
    assert plain.worst(weights, split) < 1e-6
    assert parts[-1] == pytest.approx(whole[-1], rel=1e-4)
    assert whole[-1].keys() == {term for terms in Objective.TERMS.values() for term in terms}
    assert set(Objective.LINE.values()) <= whole[-1].keys()


@pytest.mark.parametrize("bad", [{"beta": -1.0}, {"kappa_max": float("nan")}, {"reconstruct_box": 3}, {"range": -1.0}], ids=str)
def test_meaningless_values_are_refused_in_one_line(bad):
    with pytest.raises(HiresError) as refusal:
        objectives.check(Config(**bad), NetworkConfig(), zero_stage=1)
    assert "\n" not in str(refusal.value) and next(iter(bad)) in str(refusal.value)


@pytest.mark.parametrize("name", ["vae", "bounded"])
def test_a_run_stopped_in_a_fade_ends_as_one_in_one_go(name, world, tiny, tmp_path):
    """Through a growth, bit for bit: weights, moments and moving averages are in the files that are hashed."""
    ends = []
    for run, stops in (("one", []), ("two", ["train.max_images=64"])):
        for stop in [*stops, "train.max_images=112"]:
            config = configuration.load("train", [*tiny, f"objective={name}", f"run={tmp_path / run}", stop])
            assert Trainer(config, world).train() == 0
        manifest = reading.read_manifest(reading.complete(tmp_path / run / "checkpoints")[-1])
        ends.append([one["blake3"] for one in manifest["files"]])
    assert ends[0] == ends[1] and ends[0]
