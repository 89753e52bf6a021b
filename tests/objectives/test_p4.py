"""P4's published recipe on its residual network, with labels and without: the network, and rounds of f-EBM and of its baseline against
plain autograd on pictures in [0, 1], as its code has them. The power iteration stands still, for it counts passes; in double precision.
"""

import copy
import math
import zlib

import pytest
import torch

from hires import config as configuration
from hires import networks, objectives
from hires.errors import HiresError
from hires.networks import NetworkConfig
from hires.objectives import SYSTEMS
from hires.objectives.base import Rates
from hires.objectives.f_ebm import Objective
from hires.training.player import ZeroConfig, new_player

BATCH, STEPS, LR, CLASSES = 3, 4, 3e-4, 3
WARM, BY_CLASS = "objective.warmup=1", f"network.classes={CLASSES}"


def preset(*more: str):
    return configuration.load("train", ["experiment=p4_cifar10", "run=x", "data.root=y", *more])


def start(shape: NetworkConfig, config) -> dict[str, torch.nn.Module]:
    nets = {name: SYSTEMS[config.name].network(config, shape, name, 32, False) for name in config.players()}
    for name, net in nets.items():
        networks.initialise(net, lambda parameter, name=name: torch.Generator().manual_seed(zlib.crc32(f"{name}/{parameter}".encode())))
        with torch.no_grad():
            for block in net.blocks:  # the published start lets next to nothing through
                block.conv1.parametrizations.weight.original.mul_(3e9)
        for key, tensor in net.named_parameters():  # the published start has no class unlike another
            if key.endswith(("bias0", "bias1", "gain")):
                tensor.data += torch.randn(tensor.shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode()))) / 3
        net.double().eval()
    return nets


def draws(moment: int):
    def draw(stream: str, size: int) -> torch.Tensor:
        dice = torch.Generator().manual_seed(zlib.crc32(f"{stream}@{moment}".encode()))
        return torch.randn(BATCH, size, generator=dice, dtype=torch.float64)

    return draw


class Published:
    """Jensen-Shannon, or contrastive divergence where there is no H, on [0, 1]; a sample's label is that of the data in its row."""

    def __init__(self, nets, eps: float):
        self.nets, self.buffer = nets, None
        self.adams = {n: torch.optim.Adam(net.parameters(), lr=LR, betas=(0.0, 0.999), eps=eps) for n, net in nets.items()}

    def of(self, name, y):
        return self.nets[name](2 * y - 1, 1.0, self.labels).double()

    def step(self, name, loss):
        self.adams[name].zero_grad()
        loss.backward()
        self.adams[name].step()

    def chain(self, draw):
        uniform = torch.distributions.Normal(0.0, 1.0).cdf
        chosen = uniform(draw("chain", 2 + 3 * 32**2))
        fresh = chosen[:, 2:].view(BATCH, 3, 32, 32)
        if self.buffer is None:
            self.buffer = (uniform(draw("replay", 3 * 32**2)).view(fresh.shape) * 255).round()
        y = torch.where((chosen[:, 1] < 0.05)[:, None, None, None], fresh, (self.buffer + fresh - 0.5) / 255)
        for k in range(STEPS):
            y = (y + 0.005 * draw(f"langevin{k}", 3 * 32**2).view(y.shape)).detach().requires_grad_()
            (g,) = torch.autograd.grad(self.of("energy", y).sum(), y)
            y = (y.detach() - 10 * g.clamp(-0.01, 0.01)).clamp(0, 1)
        self.buffer = (y * 255).round()
        return y

    def round(self, pixels, labels, draw, warm: bool):
        self.labels = labels
        u = torch.distributions.Normal(0.0, 1.0).cdf(draw("level", 3 * 32**2)).view(pixels.shape)
        data = pixels / 255 * 255 / 256 + u / 256
        y = self.chain(draw)
        if "variational" not in self.nets:
            e_p, e_q = self.of("energy", data), self.of("energy", y)
            self.step("energy", e_p.mean() - e_q.mean() + (e_p**2).mean() + (e_q**2).mean())
            return y
        with torch.no_grad():
            e_p, e_q = self.of("energy", data), self.of("energy", y)
        h_p, h_q = self.of("variational", data), self.of("variational", y)
        A = lambda r: math.log(2) + r - torch.log(1 + r.exp())  # noqa: E731
        B = lambda r: torch.log(1 + r.exp()) - math.log(2)  # noqa: E731
        bound = A(h_p + e_p).mean() - B(h_q + e_q).mean()
        self.step("variational", (h_p**2).mean() + (h_q**2).mean() - (0 if warm else bound))
        with torch.no_grad():
            h_p, h_q = self.of("variational", data), self.of("variational", y)
        e_p, e_q = self.of("energy", data), self.of("energy", y)
        b = B(h_q + e_q).detach()
        loss = A(h_p + e_p).mean() + (e_q * b).mean() - e_q.mean() * b.mean() - B(h_q + e_q).mean()
        self.step("energy", (e_p**2).mean() + (e_q**2).mean() + (0 if warm else loss))
        return y


@pytest.mark.parametrize("of", [[WARM], [WARM, BY_CLASS], ["objective=contrastive_divergence_p4", BY_CLASS]])
def test_rounds_are_the_published_codes(of, world, in_double):
    """With labels an image at a time, so that each must find its own."""
    config = preset("network.width=0.03", f"objective.chains.steps={STEPS}", f"objective.chains.replay={BATCH}", *of)
    labelled = BY_CLASS in of
    config.optimizer.clip, config.optimizer.eps = math.inf, 1e-3
    nets = start(config.network, config.objective)
    reference = Published(copy.deepcopy(nets), 1e-3)
    players = {n: new_player(n, copy.deepcopy(net), config.optimizer, ZeroConfig(0), "fp32", world.device) for n, net in nets.items()}
    game = SYSTEMS[config.objective.name](config.objective, 1, players)
    for moment in range(3):
        pixels = torch.randint(0, 256, (BATCH, 3, 32, 32), generator=torch.Generator().manual_seed(moment)).double()
        labels = (torch.arange(BATCH) + moment) % CLASSES if labelled else None
        y = reference.round(pixels, labels, draws(moment), warm=moment < 1)
        draw, given = draws(moment), {"labels": labels.to(world.device)} if labelled else {}
        batch = game.batch((pixels / 127.5 - 1).to(world.device), 1.0, lambda *what, draw=draw: draw(*what).to(world.device), 1, **given)
        game.round(batch, Rates(LR, LR, 0.0, moment), 32, True, micro_batch=1 if labelled else 0)
        kept = next(iter(game.carried().values()))[0].view(y.shape)
        assert torch.equal(kept.cpu(), (y * 255).round().to(torch.uint8))
    for name, player in players.items():
        own = player.gather("weight")
        wanted = {n: p.detach() for n, p in reference.nets[name].named_parameters()}
        before = dict(nets[name].named_parameters())
        assert max((wanted[n] - before[n]).abs().max() for n in wanted) > LR
        assert max((own[n].cpu() - wanted[n]).abs().max() for n in wanted) < 1e-6, name
        player.destroy()


@torch.no_grad()
def test_an_energy_with_classes_is_a_plain_network_with_biases_and_gains_by_label():
    """Every layer written out, a label as a row of the identity; and without a label the energy of the mixture."""
    config = preset("network.width=0.03", BY_CLASS)
    U = start(config.network, config.objective)["energy"]
    x, labels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double() * 2 - 1, torch.tensor([2, 0, 2, 1])
    leaky, conv = (lambda h: torch.where(h > 0, h, 0.2 * h)), torch.nn.functional.conv2d

    def plain(y: torch.Tensor) -> torch.Tensor:
        one_hot = torch.eye(CLASSES, dtype=torch.float64)[y]
        h = leaky(conv((x + 1) / 2, U.from_image.weight, padding=1))
        for i, block in enumerate(U.blocks):
            bias0, bias1, gain = ((one_hot @ of)[:, :, None, None] for of in (block.bias0, block.bias1, block.gain))
            inside = conv(leaky(conv(h + bias0, block.conv0.weight, padding=1)) + bias1, block.conv1.weight, padding=1) * gain
            h = inside + (h if i not in (2,) else conv(h, block.beside.weight, padding=1))
            h = leaky(torch.nn.functional.avg_pool2d(h, 2) if i in (0, 2, 4) else h)
        return (h.clamp_min(0).sum((2, 3)) @ U.head.weight.T + U.head.bias)[:, 0]

    torch.testing.assert_close(U(x, 1.0, labels).double(), plain(labels), rtol=1e-6, atol=1e-6)
    each = torch.stack([plain(torch.full((4,), y)) for y in range(CLASSES)])
    assert (each.max(0).values - each.min(0).values).min() > 1e-2
    torch.testing.assert_close(U(x).double(), -torch.log(torch.exp(-each).sum(0)), rtol=1e-6, atol=1e-6)


def test_the_network_is_the_published_one():
    config = preset()
    U = Objective.network(config.objective, config.network, "energy", 32, False)
    convs = [(m.in_channels, m.out_channels) for m in U.modules() if isinstance(m, torch.nn.Conv2d)]
    a, b = 128, 256
    blocks = [(a, a), (a, a), (a, a), (a, a), (a, b), (b, b), (a, b), *[(b, b)] * 6]  # the third has one beside it
    assert convs == [(3, a), *blocks]
    assert all(m.kernel_size == (3, 3) and m.bias is None for m in U.modules() if isinstance(m, torch.nn.Conv2d))
    assert (U.head.in_features, U.head.out_features) == (b, 1)
    assert [block.halves for block in U.blocks] == [True, False, True, False, True, False]


@torch.no_grad()
def test_a_block_starts_as_its_activation_and_no_convolution_exceeds_one():
    U = Objective.network(preset().objective, NetworkConfig(kind="p4", width=0.06), "energy", 32, False)
    networks.initialise(U, lambda name: torch.Generator().manual_seed(zlib.crc32(name.encode())))
    h = torch.randn(2, 8, 8, 8)
    torch.testing.assert_close(U.blocks[1](h), torch.nn.functional.leaky_relu(h, 0.2), rtol=0, atol=1e-6)
    for block in U.blocks:
        block.conv1.parametrizations.weight.original.mul_(1e10)  # N(0, 1)
    for _ in range(40):
        U(torch.rand(2, 3, 32, 32))
    for module in U.modules():
        if isinstance(module, torch.nn.Conv2d):
            assert torch.linalg.matrix_norm(module.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.03)
    assert U(torch.rand(5, 3, 32, 32)).shape == (5,)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["objective.sampler=generator"], "sampler=replay"),
        (["objective=vae"], "network.kind=p4 with objective=vae"),
        (["network=slim", "network.classes=10"], "network.classes=10 with network.kind=growing: labels are read by network=p4 alone"),
    ],
)
def test_other_games_are_refused(more, words):
    config = preset(*more)
    with pytest.raises(HiresError, match=words):
        objectives.check(config.objective, config.network, 0)
