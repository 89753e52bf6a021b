"""Batch norm: over several ranks, and in use with statistics of the averaged weights on what a network is given, never training's."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from hires import config as configuration
from hires.bundle import from_run
from hires.checkpoints import reading
from hires.evaluation import subject
from hires.networks import batch_norm
from hires.objectives.base import reconstructions
from hires.training import game
from hires.training.schedule import Schedule
from hires.training.trainer import Trainer
from pipelines import PrepareConfig, prepare


def moments(h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return h.mean((0, 2, 3)), h.transpose(0, 1).flatten(1).var(1)


def of_one_batch(network: nn.Module, inputs: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and unbiased variance of what each layer of batch norm is given, when all normalise by the batch itself."""
    network, found = copy.deepcopy(network).train(), []
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, given: found.append(moments(given[0])))
    with torch.no_grad():
        network(inputs)
    return found


def stored(network: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(layer.running_mean, layer.running_var) for layer in batch_norm.layers(network)]


def same(network: nn.Module, expected: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    pairs = [pair for one, two in zip(stored(network), expected, strict=True) for pair in zip(one, two, strict=True)]
    return all(torch.allclose(*(t.cpu() for t in pair), rtol=1e-4, atol=1e-6) for pair in pairs)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A few steps of P2's game at 32x32 with a channel or two, saved; and its settings and data."""
    out = tmp_path_factory.mktemp("p2")
    prepare(PrepareConfig(source="digits", out=str(out / "data"), resolution=32, allow_upscale=True, workers=1))
    settings = [f"data.root={out / 'data'}", f"run={out / 'run'}", "network.width=0.03", "network.latent=6", "network.image_channels=1"]
    steps = ["schedule.levels.32.stable=80", "schedule.levels.32.batch=16", "train.trial=false", "monitor.samples=4"]
    config = configuration.load("train", ["experiment=p2_cifar10", *settings, *steps, "train.threads=1", "schedule.ema_halflife=30"])
    trainer = Trainer(config, world, owns_process=False)
    assert trainer.train() == 0
    return config, trainer


GAMES = {  # settings, resolution, and the worlds of several processes: size, ZeRO stage
    "triangle": (["experiment=triangle_cifar10", "network=dcgan64", "objective.r1=0", "optimizer.eps=1e-3"], 32, [(2, 1), (2, 3), (4, 2)]),
    "latent EBM": (["experiment=p2_cifar10", "optimizer.eps=1e-3"], 32, [(2, 1)]),
    "vcd": (["experiment=p3_vcd_mnist", "zero=stage0"], 28, [(2, 0)]),
}


@pytest.fixture(scope="module")
def by_world(worlds, tmp_path_factory):
    """What three rounds of 12 make of games with batch norm, by game, processes and ZeRO stage."""
    out = tmp_path_factory.mktemp("worlds")
    settings = ["network.width=0.02", "network.latent=6", "network.image_channels=1", "train.precision=fp32", "train.threads=1"]
    settings += ["train.trial=false", "train.checkpoint_every=12", "train.keep=9", "monitor.samples=4"]
    plan: dict[int, list] = {}
    for name, (own, resolution, sizes) in GAMES.items():
        data = out / f"data-{resolution}"
        if not data.exists():
            prepare(PrepareConfig(source="digits", out=str(data), resolution=resolution, allow_upscale=True, workers=1))
        lengths = [f"schedule.levels.{resolution}.{key}" for key in ("batch=12", "stable=36")]
        for size, stage in [(1, 0), *sizes]:
            there = [f"run={out / name}-{size}x{stage}", f"zero.stage={stage}", f"data.root={data}"]
            plan.setdefault(size, []).append([*own, *settings, *lengths, *there])
    worlds(list(plan.items()))
    return {path.name: everything(path / "checkpoints") for path in out.iterdir() if not path.name.startswith("data")}


def everything(folder: Path) -> dict[str, torch.Tensor]:
    """Moments after a first round by player, and weights and buffers after the last, each as one tensor."""
    first, last = (reading.Checkpoint(folder / reading.folder_name(images)) for images in (12, 36))

    def whole(checkpoint: reading.Checkpoint, player: str, field: str) -> torch.Tensor:
        names = sorted(checkpoint.names(player, field))
        return torch.cat([checkpoint.read(player, name, field, 0, checkpoint.numel(player, name, field)).double() for name in names])

    players = list(last.manifest["steps"])
    kept = [(player, field) for player in players for field in ("weight", "buffer") if last.names(player, field)]
    found = {f"{player} {field}": whole(last, player, field) for player, field in kept}
    return found | {f"{player} exp_avg": whole(first, player, "exp_avg") for player in players}


@pytest.mark.parametrize(("name", "size", "stage"), [(name, *world) for name, (*_, sizes) in GAMES.items() for world in sizes])
def test_a_batch_over_several_ranks_is_normalised_as_one(name, size, stage, by_world):
    """The numbers of one process up to rounding, which may turn a ReLU on; with each rank's own statistics they are far apart."""
    alone, here = by_world[f"{name}-1x0"], by_world[f"{name}-{size}x{stage}"]
    apart = {key: ((here[key] - wanted).abs().max() / wanted.abs().max()).item() for key, wanted in alone.items()}
    assert max(apart.values()) < 2e-3, apart


def test_what_is_loaded_has_the_averages_own_statistics_on_the_prior(run):
    config, _ = run
    loaded = from_run.load(config.run)
    z = batch_norm.prior(config.network.latent)
    assert z.shape == (512, 6)
    assert same(loaded.generator, of_one_batch(loaded.generator, z))
    other = torch.randn(512, 6, generator=torch.Generator().manual_seed(5)) * 0.3  # a posterior's, say
    assert not same(loaded.generator, of_one_batch(loaded.generator, other))


def test_a_picture_is_a_function_of_its_own_latent(run):
    config, _ = run
    G, z = from_run.load(config.run).generator, torch.randn(9, 6)
    assert torch.allclose(G(z)[:2], G(z[:2]), atol=1e-6)


def test_samples_take_the_priors_statistics_and_reconstructions_the_codes(run):
    config, trainer = run
    loaded = from_run.load(config.run)
    of = subject.of_networks(loaded.networks, config.objective, "", 0, (32, 1, 6), 1.0, torch.device("cpu"))
    x = trainer.feed.held_out(32, 40).float() / 127.5 - 1
    of.settle(x)
    I, G = loaded.networks["inference"], loaded.generator  # noqa: E741 - the papers' name
    assert same(I, of_one_batch(I, x))
    codes, z = of.encode(x), batch_norm.prior(6)
    assert same(G, of_one_batch(G, z))
    assert not torch.allclose(of.generate(codes), of.decode(codes), atol=1e-3)
    decoder = copy.deepcopy(G)
    batch_norm.measure(decoder, codes)
    torch.testing.assert_close(of.decode(codes), decoder(codes))
    shown, _ = reconstructions(G, I, x, 1.0)["reconstructions"]
    torch.testing.assert_close(shown[1::2], decoder(codes))
    assert same(G, of_one_batch(G, z))  # and the generator is left as it was


def test_the_checkpoint_holds_the_averages_statistics_of_the_last_pictures(run, world):
    """Trained once more from the start, as the run was: what the inference model saw last."""
    config, trainer = run
    one = game.Game(config, world, Schedule(config.schedule).at(0).shape)
    batches = trainer.feed.batches(0)
    for step in range(5):
        phase = Schedule(config.schedule).at(16 * step)
        pixels = next(batches)
        one.round(phase, pixels)
    batches.close()
    running = copy.deepcopy(one.players["inference"].network)
    x = pixels.to(world.device).float() / 127.5 - 1
    averaged = one.averaged()["inference"]
    assert same(averaged, of_one_batch(averaged, x)) and not same(averaged, stored(running))
    assert same(averaged, stored(from_run.load(config.run).networks["inference"]))
    one.destroy()


def test_a_run_taken_up_again_ends_where_the_other_one_ends(run, world, tmp_path):
    """Weights, moments, statistics and singular vectors, bit for bit."""
    config, _ = run
    halves = copy.deepcopy(config)
    halves.run = str(tmp_path / "run")
    for end in ("48", ""):
        halves.train.max_images = end
        assert Trainer(halves, world, owns_process=False).train() == 0
    whole, taken_up = (reading.Checkpoint(reading.complete(Path(one.run) / "checkpoints")[-1]) for one in (config, halves))
    compared = 0
    for player in config.objective.players():
        for field in (*reading.FIELDS, "buffer"):
            for name in sorted(whole.names(player, field)):
                size = whole.numel(player, name, field)
                assert torch.equal(*(one.read(player, name, field, 0, size) for one in (whole, taken_up))), (player, name, field)
                compared += 1
    assert whole.images == taken_up.images == 80 and compared > 200


@pytest.mark.parametrize(
    ("experiment", "player"), [("triangle_cifar10", "generator"), ("p3_vgan_cifar10", "generator"), ("triangle_64", "inference")]
)
def test_weights_in_bf16_leave_the_statistics_in_fp32(experiment, player):
    """As training has them: the parameters alone are cast."""
    config = configuration.load("train", [f"experiment={experiment}", "network.width=0.0625", "run=none", "data.root=none"])
    resolution = 64 if experiment == "triangle_64" else 32
    exact = game.build_network(config, player, resolution, False).train()
    network = copy.deepcopy(exact)
    for parameter in network.parameters():
        parameter.data = parameter.data.bfloat16()
    dice = torch.Generator().manual_seed(0)
    shape = (8, config.network.latent) if player == "generator" else (8, 3, resolution, resolution)
    inputs = torch.randn(shape, generator=dice).clamp(-1, 1)
    outputs, expected = (one(inputs) if player == "generator" else one(inputs)[0] for one in (network, exact))
    outputs.square().mean().backward()
    assert (outputs - expected).abs().mean() < 0.05 * expected.abs().mean()
    slopes = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert slopes and all(slope.dtype == torch.bfloat16 and slope.isfinite().all() for slope in slopes)
    for (mean, variance), (exact_mean, exact_variance) in zip(stored(network), stored(exact), strict=True):
        assert mean.dtype == variance.dtype == torch.float32
        assert torch.allclose(variance, exact_variance, rtol=0.05, atol=0.01) and torch.allclose(mean, exact_mean, atol=0.02)
