"""The triangle's round in plain autograd and torch's Adam: what the players' engines are compared with.

Written from the losses (docs/reference/systems.md) with one graph through all three networks and nothing shared with hires.objectives.
"""

from dataclasses import dataclass, field
import math
import zlib

import pytest
import torch
import torch.nn.functional as F

PLAYERS = ("generator", "energy", "inference")


@dataclass
class Settings:
    """Weights of the losses in their textbook scale: sums over dimensions where the published code sums."""

    updates: str = "published"
    kappa: float = 3072.0  # of the mean squared error
    beta: float = 1.0  # of the KL's mean over dimensions
    lambda_z: float = 10.0  # of the negative log-likelihood's mean over dimensions
    lambda_u: float = 0.0
    energy_weight: float = 1.0  # of U in the generator's loss
    gamma: float = 0.0  # of the gradient penalty at this resolution
    penalty_weight: float = 1.0  # lazy: how many times more the penalty weighs when it is computed
    penalise_samples: bool = False  # the gradient penalty's mean over samples is added to that over real images
    range: float = 0.0  # of the mean squared excess over [-1, 1]
    box: int = 1  # R compares means of boxes of so many pixels a side
    clamp: tuple[float, float] | None = None
    generator_steps: int = 1
    logistic: bool = False  # -U is the logit of a classifier
    reconstructions: bool = False  # the energy sees reconstructions as well
    refined: tuple[int, float] | None = None  # the energy sees where so many steps of such a size lead from the samples as well
    corrupted: bool = False  # the energy sees corrupted real images as well
    by_kind: bool = False  # real images and each kind of fake go through the energy apart: batch norm mixes what lies in one batch
    adam: dict = field(default_factory=lambda: {"betas": (0.5, 0.999), "eps": 1e-8})
    clip: float = 100.0


class Reference:
    """Three networks, three Adams, one graph."""

    def __init__(self, networks: dict, settings: Settings):
        self.nets, self.s = networks, settings
        self.G, self.U, self.I = (networks[name] for name in PLAYERS)
        self.adams = {name: torch.optim.Adam(net.parameters(), lr=0.0, **settings.adam) for name, net in networks.items()}
        self.clipped = {name: 0 for name in PLAYERS}

    def posterior(self, x, alpha):
        mu, logvar = self.I(x, alpha)
        if self.s.clamp:
            low, high = self.s.clamp
            logvar = low + torch.log1p((logvar - low).exp())
            logvar = high - torch.log1p((high - logvar).exp())
        return mu, logvar

    def reconstruct(self, x, eps, alpha):
        mu, logvar = self.posterior(x, alpha)
        z = mu + torch.sqrt(logvar.exp()) * eps
        return mu, logvar, z

    def R(self, x_hat, x):
        """The published sum of squares per image, over the number of pixel values; of box means where so set."""
        B, C, H, W = x.shape
        boxes = [t.reshape(B, C, H // self.s.box, self.s.box, W // self.s.box, self.s.box).mean((3, 5)) for t in (x_hat, x)]
        return ((boxes[0] - boxes[1]) ** 2).sum() / B / boxes[1][0].numel()

    def excess(self, x):
        """What keeps images in [-1, 1], with its weight."""
        return self.s.range * (torch.clamp(x.abs(), min=1) - 1).pow(2).mean()

    def K(self, mu, logvar):
        return (-0.5 * (1 + logvar - mu**2 - logvar.exp())).mean()

    def N(self, z, mu, logvar):
        """The published NLL (sum over dimensions, mean over the batch) over the number of dimensions."""
        return (0.5 * logvar.sum(1) + 0.5 * ((z - mu) ** 2 / logvar.exp()).sum(1)).mean() / z.shape[1]

    def step(self, name, gradients, lr):
        net, adam = self.nets[name], self.adams[name]
        for p, g in zip(net.parameters(), gradients, strict=True):
            p.grad = g.clone()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), self.s.clip)
        self.clipped[name] += int(norm > self.s.clip)
        adam.param_groups[0]["lr"] = lr
        adam.step()

    def gradients(self, name, loss):
        return torch.autograd.grad(loss, list(self.nets[name].parameters()), retain_graph=True)

    def energies(self, images, B, alpha):
        """One call, where what lies in a batch beside an image is of no concern to the energy; with `by_kind` one for each B images."""
        return torch.cat([self.U(kind, alpha) for kind in images.split(B)]) if self.s.by_kind else self.U(images, alpha)

    def energy_loss(self, x, fakes, alpha, penalise, seen):
        u = self.energies(torch.cat([x, fakes]), len(x), alpha)
        u_x, u_f = u[: len(x)], u[len(x) :]
        loss = u_x.mean() - u_f.mean()
        if self.s.logistic:
            told = torch.cat([torch.ones_like(u_x), torch.zeros_like(u_f)])
            weight = torch.cat([torch.full_like(u_x, 1 / len(u_x)), torch.full_like(u_f, 1 / len(u_f))])
            loss = F.binary_cross_entropy_with_logits(-u, told, weight, reduction="sum")
        loss = loss + self.s.lambda_u * ((u_x**2).mean() + (u_f**2).mean())
        seen |= {"energy_real": u_x.mean(), "energy_fake": u_f[: len(x)].mean(), "loss_energy": loss}
        if penalise and self.s.gamma:
            leaf = torch.cat([x, fakes[: len(x)].detach()] if self.s.penalise_samples else [x]).requires_grad_()
            (g,) = torch.autograd.grad(self.U(leaf, alpha).sum(), leaf, create_graph=True)
            penalty = sum((part**2).sum((1, 2, 3)).mean() for part in g.split(len(x)))
            loss = loss + self.s.penalty_weight * self.s.gamma / 2 * penalty
        return loss, u_f

    def pull(self, u, B):
        """What the generator lowers: w E U(x_tilde), or half of it and half of w E U(x_hat); of a classifier -ln sigmoid(-U)."""
        u = -torch.log(1 / (1 + u.exp())) if self.s.logistic else u
        return self.s.energy_weight * (u.mean() if not self.s.reconstructions else 0.5 * u[:B].mean() + 0.5 * u[B:].mean())

    def generator_step(self, x, z, eps, alpha, lr, x_tilde=None, seen=None):
        """theta alone: fresh posterior, everything seen as it stands."""
        _, _, z_tilde = self.reconstruct(x, eps, alpha)
        x_hat = self.G(z_tilde, alpha)
        R = self.R(x_hat, x)
        x_tilde = self.G(z, alpha) if x_tilde is None else x_tilde
        loss = self.excess(x_hat) + self.excess(x_tilde)
        u = self.U(x_tilde, alpha)
        loss = loss + self.s.kappa * R + self.s.energy_weight * (-torch.log(1 / (1 + u.exp())) if self.s.logistic else u).mean()
        loss = loss + self.s.lambda_z * self.N(z, *self.posterior(x_tilde, alpha))
        if seen is not None:
            seen |= {"R": R}
        self.step("generator", self.gradients("generator", loss), lr)

    def round(self, x, z, eps, lr, energy_lr, alpha=1.0, penalise=False, extra=()):
        seen = {}
        if self.s.updates == "published":
            self._published(x, z, eps, lr, energy_lr, alpha, penalise, seen)
        else:
            self._from_one_point(x, z, eps, lr, energy_lr, alpha, penalise, seen)
        for z, eps in extra:
            self.generator_step(x, z, eps, alpha, lr)
        return {name: value.item() for name, value in seen.items()}

    def with_others(self, x, fakes, alpha):
        """Samples, and what they lead to or what is made of real images."""
        if self.s.refined:
            moved = fakes.detach()
            for _ in range(self.s.refined[0]):
                moved = moved.requires_grad_()
                (down,) = torch.autograd.grad(self.U(moved, alpha).sum(), moved)
                moved = torch.clamp(moved.detach() - self.s.refined[1] * down, -1, 1)
            fakes = torch.cat([fakes, moved])
        return torch.cat([fakes, x.flip(2)]) if self.s.corrupted else fakes  # as test_divergence_triangle corrupts

    def _published(self, x, z, eps, lr, energy_lr, alpha, penalise, seen):
        """P1's loop: alpha, then phi at the new alpha, then theta at the new alpha and phi; x_tilde's graph serves all three."""
        x_tilde = self.G(z, alpha)
        loss, _ = self.energy_loss(x, self.with_others(x, x_tilde.detach(), alpha), alpha, penalise, seen)
        self.step("energy", self.gradients("energy", loss), energy_lr)
        mu, logvar, z_tilde = self.reconstruct(x, eps, alpha)
        K, N = self.K(mu, logvar), self.N(z, *self.posterior(x_tilde.detach(), alpha))
        x_hat = self.G(z_tilde, alpha)
        loss = self.s.kappa * self.R(x_hat, x) + self.excess(x_hat) + self.s.beta * K + self.s.lambda_z * N
        seen |= {"K": K, "N": N}
        self.step("inference", self.gradients("inference", loss), lr)
        self.generator_step(x, z, eps, alpha, lr, x_tilde, seen)

    def _from_one_point(self, x, z, eps, lr, energy_lr, alpha, penalise, seen):
        """energy_first: phi and theta see the new alpha and each other's old parameters. simultaneous: all see the old ones."""
        x_tilde = self.G(z, alpha)
        fakes = x_tilde
        if self.s.reconstructions:
            fakes = torch.cat([x_tilde, self.G(self.reconstruct(x, eps, alpha)[2], alpha)])
        fakes = self.with_others(x, fakes, alpha)
        loss, u_f = self.energy_loss(x, fakes, alpha, penalise, seen)
        u_f = u_f[: len(x) * (2 if self.s.reconstructions else 1)]
        energy = self.gradients("energy", loss)
        if self.s.updates == "energy_first":
            self.step("energy", energy, energy_lr)
            x_tilde = self.G(z, alpha)
        mu, logvar, z_tilde = self.reconstruct(x, eps, alpha)
        x_hat = self.G(z_tilde, alpha)
        R, K, N = self.R(x_hat, x), self.K(mu, logvar), self.N(z, *self.posterior(x_tilde, alpha))
        seen |= {"R": R, "K": K, "N": N}
        if self.s.updates == "energy_first":
            u_f = self.energies(torch.cat([x_tilde, x_hat]) if self.s.reconstructions else x_tilde, len(x), alpha)
        # each player's loss, all differentiated before anyone steps; phi reaches the energy through x_hat alone
        shared = self.s.kappa * R + self.excess(x_hat) + self.s.lambda_z * N
        pull = self.pull(u_f, len(x))
        phi = self.gradients("inference", shared + self.s.beta * K + (pull if self.s.reconstructions else 0))
        theta = self.gradients("generator", shared + pull + self.excess(x_tilde))
        if self.s.updates == "simultaneous":
            self.step("energy", energy, energy_lr)
        self.step("inference", phi, lr)
        self.step("generator", theta, lr)


def stream(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def draw(rounds: int, batch: int, latent: int, channels: int, resolution: int, generator_steps: int = 1, dtype=torch.float32) -> list[dict]:
    """Images and noise of each round; images are smooth and bounded, as images are."""
    out = []
    for i in range(rounds):
        size = (batch, channels, resolution, resolution)
        x = F.interpolate(torch.randn(batch, channels, 4, 4, generator=stream(f"x{i}")), resolution, mode="bilinear").tanh()
        x = (x + 0.05 * torch.randn(size, generator=stream(f"pixels{i}"))).clamp(-1, 1)
        z, eps, *more = torch.randn(2 * generator_steps, batch, latent, generator=stream(f"z{i}")).to(dtype)
        x = x.to(dtype)
        out.append({"x": x, "z": z, "eps": eps, "extra": list(zip(more[::2], more[1::2], strict=True))})
    return out


def worst(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference over all parameters."""
    assert a.keys() == b.keys()
    return max((a[name].cpu() - b[name].cpu()).abs().max().item() for name in a)


def total_norm(a: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(t.double().square().sum().item() for t in a.values()))


@pytest.fixture(scope="session")
def plain():
    """The reference and its helpers, under one name."""

    class Plain:
        pass

    Plain.Settings, Plain.Reference = Settings, Reference
    Plain.stream, Plain.draw, Plain.worst = staticmethod(stream), staticmethod(draw), staticmethod(worst)
    return Plain


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the networks' fp32 outputs and DeepSpeed's reduction be fp64."""
    from deepspeed.accelerator import get_accelerator

    single = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda t: t if t.dtype == torch.float64 else single(t))
    monkeypatch.setattr(type(get_accelerator()), "supported_dtypes", lambda self: [torch.float64])
