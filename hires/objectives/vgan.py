"""VGAN (Zhai et al. 2016, "Generative Adversarial Networks as Variational Training of Energy Based Models"): generator and bounded energy.

With x real (faded while growing), z ~ N(0, I), x_tilde = G(z), and K experts p_j(x) = sigmoid(s_j(x)) clipped to [1e-4, 1 - 1e-4]:

    U(x)       = 1/K sum_j H(p_j(x))                          H the entropy of a yes or no, in nats: U lies in [0, ln 2]
    H~(X)      = 1/K sum_j H(mean over X of p_j)              X the whole global batch, whatever ranks and micro-batches hold it
    energy     L_alpha = E U(x) - E U(x_tilde) - H~(x) + lambda_s (E s(x)^2 + E s(x_tilde)^2)
    generator  L_theta = E U(x_tilde) - H~(x_tilde) + range term, `generator_steps` times a round

The paper sums over the experts (over_experts=sum); means make the weights of other terms free of K. H~ is a function of batch means m_j, so
with those means as numbers its gradient is that of 1/K sum_j H'(m_j) p_j, H'(m) = ln((1 - m) / m), averaged over images: ranks and
micro-batches exchange m_j, K numbers, and each does its share. An energy of one image sees no batch: H~ stands in the loss alone. The mean
square of the scores is ours (objective=vgan_published has none): without it they grow until every expert is sure of every image, real or
not, and then nobody learns (docs/reference/vgan.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
import torch.distributed as dist

from hires.errors import HiresError
from hires.ground.ranges import setting
from hires.networks import Generator, NetworkConfig, p3
from hires.networks.expert_energy import ExpertEnergy, binary_entropy, probabilities
from hires.objectives import base
from hires.objectives.base import Draw, ObjectiveConfig, Pictures, Player, Rates, Record, fakes
from hires.objectives.terms import diversity, overshoot

PLAYERS = ("generator", "energy")


@dataclass
class Config(ObjectiveConfig):
    """The experts and the order of the updates."""

    name: str = "vgan"
    experts: int = setting(128, at_least=1)  # K; the paper's text has 100, its code 128
    generator_steps: int = setting(1, at_least=1)  # theta steps a round; the paper: 3 beats 1 by a linear probe
    lambda_s: float = setting(0.003, at_least=0)  # L2 on the experts' scores, means over batch and experts
    range: float = setting(10.0, at_least=0)  # weight of the mean of max(|x| - 1, 0)^2 over samples: a linear output has no other bound
    over_experts: str = setting("mean", among=("mean", "sum"))  # of U and H~; the paper sums

    def players(self) -> tuple[str, ...]:
        return PLAYERS

    def scale(self) -> float:
        """What a mean over the experts is multiplied by."""
        return float(self.experts) if self.over_experts == "sum" else 1.0

    def fullest(self, kept: dict[str, int], whole: bool) -> int:
        g, u = kept["generator"], kept["energy"]  # G's synthesis waits while the energy sees x and x_tilde
        return max((g if whole else 0) + 2 * u, g + u)


def mean_of_all(values: list[Tensor]) -> Tensor:
    """Mean over the rows of every micro-batch (B, K) of every rank, all as large, without gradient (K,); a collective."""
    mean = torch.stack([value.detach().mean(0) for value in values]).mean(0)
    if dist.get_world_size() > 1:
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean


def batch_entropy(p: Tensor, mean: Tensor) -> Tensor:
    """H~ with its gradient with respect to this rank's p (B, K), where `mean` (K,) is the whole global batch's; its value is exact."""
    slope = ((1 - mean) / mean).log()
    return (binary_entropy(mean) + slope * (p.mean(0) - p.detach().mean(0))).mean()


@dataclass
class Batch:
    """What one rank needs for a round: real images (B, C, r, r), faded, and latents (B, d) for each of the generator's steps."""

    x: Tensor
    z: list[Tensor]
    alpha: float = 1.0
    corrupted: Tensor | None = None  # real images that the energy is shown as fakes, as many as x


class Objective(base.Objective):
    """One round of the game on two players; see the module's text for the losses."""

    Settings: ClassVar[type[ObjectiveConfig]] = Config
    LOSSES = {
        "energy": "E U(x) − E U(x̃) − H̃(x) + λ_s (E s(x)² + E s(x̃)²)",
        "generator": "E U(x̃) − H̃(x̃) + range",
    }
    TAKES = {"generator": "z", "energy": "x"}
    SHAPED_BY: ClassVar[tuple[str, ...]] = ("experts",)
    by_kind = False  # whether the energy sees real images and each kind of fakes in passes of their own
    TERMS = {
        "energy": ("energy_real", "energy_fake", "energy_gap", "entropy_real", "score_square", "loss_energy"),
        "generator": ("entropy_fake", "energy_slope", "diversity"),
    }
    LINE = {"E(real)": "energy_real", "E(fake)": "energy_fake", "H(real)": "entropy_real", "H(fake)": "entropy_fake", "div": "diversity"}

    def __init__(self, config: Any, latent: int, players: Mapping[str, Player]):
        self.config = config
        self.G, self.U = (players[name] for name in PLAYERS)

    @staticmethod
    def network(config: Config, shape: NetworkConfig, player: str, resolution: int, fading: bool) -> nn.Module:
        own = shape.kind == "p3"
        if player == "generator":
            return (p3.Generator if own else Generator)(shape, resolution, fading)
        return (p3.ExpertEnergy if own else ExpertEnergy)(shape, resolution, fading, config.experts, config.scale())

    @staticmethod
    def check(config: Config, shape: NetworkConfig, zero_stage: int) -> None:
        if shape.kind not in ("growing", "p3"):
            found = f"network.kind={shape.kind} with objective={config.name}"
            raise HiresError(f"{found}: it is built for growing networks, network=base or slim, and for network=p3 and p3_mnist")

    def batch(self, x: Tensor, alpha: float, draw: Draw, latent: int) -> Batch:
        return Batch(x, [draw(f"latent{k or ''}", latent) for k in range(self.config.generator_steps)], alpha)

    def round(self, batch: Batch, rates: Rates, resolution: int, due: bool, micro_batch: int = 0) -> dict[str, Tensor]:
        """Update the energy once, then the generator `generator_steps` times."""
        size = micro_batch or len(batch.x)
        x, z = batch.x.split(size), [latents.split(size) for latents in batch.z]
        with Record(1 / len(x)) as record:
            with torch.set_grad_enabled(len(x) == 1):  # its graph waits for the generator's backward when it fits, else it is made again
                x_tilde = [self.G(part, batch.alpha) for part in z[0]]
            shown = [fake.detach() for fake in x_tilde]
            if batch.corrupted is not None:
                shown = [torch.cat(pair) for pair in zip(shown, batch.corrupted.split(size), strict=True)]
            self.energy_turn(x, shown, batch.alpha, rates, record)
            self._generator_turn(z[0], x, batch.alpha, rates, record, x_tilde if len(x) == 1 else None)
            for latents in z[1:]:
                self._generator_turn(latents, x, batch.alpha, rates)
        return record.means

    def pictures(self, networks: dict[str, nn.Module], x: Tensor, z: Tensor, alpha: float) -> Pictures:
        return fakes(networks["generator"], z, alpha)

    # -------------------------------------------------------------------------------------------- turns

    def energy_turn(self, real: list[Tensor], fake: list[Tensor], alpha: float, rates: Rates, record: Record) -> None:
        """L_alpha of real images and fakes, in micro-batches, into the energy, and its step."""
        mean = self._mean_before(real, alpha)
        with self.U.accumulate():
            for x, x_tilde in zip(real, fake, strict=True):
                seen = (x, *x_tilde.split(len(x))) if self.by_kind else (torch.cat([x, x_tilde]),)
                scores = torch.cat([self.U(images, alpha, True) for images in seen])
                loss, terms = self.energy_loss(scores[: len(x)], scores[len(x) :], mean)
                size = 0.5 * (scores[: len(x)].square().mean() + scores[len(x) :].square().mean())
                loss = loss + 2 * self.config.lambda_s * size
                self.U.backward(loss / len(real))
                self.penalise(x, x_tilde, alpha, 1 / len(real), record)
                record.add(loss_energy=loss, score_square=size, **terms)
        self.U.step(rates.energy_lr, rates.ema_decay)

    def energy_loss(self, real: Tensor, fake: Tensor, mean: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """L_alpha without its last term of scores (B, K) of real images and fakes; `mean`, of all, where there are more micro-batches."""
        p, scale = probabilities(real), self.config.scale()
        u_x, u_f = scale * binary_entropy(p).mean(), scale * binary_entropy(probabilities(fake)).mean()
        entropy = scale * batch_entropy(p, mean_of_all([p]) if mean is None else mean)
        return u_x - u_f - entropy, {"energy_real": u_x, "energy_fake": u_f, "energy_gap": u_f - u_x, "entropy_real": entropy}

    def penalise(self, x: Tensor, x_tilde: Tensor, alpha: float, share: float, record: Record) -> None:
        """A penalty of the energy on real images and fakes, `share` of it, into the energy: none here."""

    def pull(self, scores: Tensor, mean: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """What the energy makes the generator lower, of samples' scores (B, K), and terms; `mean` as above."""
        p, scale = probabilities(scores), self.config.scale()
        entropy = scale * batch_entropy(p, mean_of_all([p]) if mean is None else mean)
        return scale * binary_entropy(p).mean() - entropy, {"entropy_fake": entropy}

    def force(self, x: Tensor, x_tilde: Tensor, alpha: float, mean: Tensor | None, record: Record | None) -> Tensor:
        """The gradient (B, C, r, r) of `pull` with respect to samples, made beside real images x."""
        leaf = x_tilde.detach().requires_grad_()
        loss, terms = self.pull(self.U(leaf, alpha, True), mean)
        (gradient,) = torch.autograd.grad(loss, leaf)
        if record is not None:
            record.add(energy_slope=gradient.flatten(1).norm(dim=1).mean() * len(leaf), **terms)
        return gradient

    def _generator_turn(
        self, z: list[Tensor], x: list[Tensor], alpha: float, rates: Rates, record: Record | None = None, kept: list[Tensor] | None = None
    ) -> None:
        """L_theta of latents in micro-batches into the generator, and its step; `kept` are samples with their graphs."""
        mean = self._mean_before(z, alpha, lambda part: self.G(part, alpha))
        with self.G.accumulate():
            for i, part in enumerate(z):
                x_tilde = kept[i] if kept else self.G(part, alpha)
                g = self.force(x[i], x_tilde, alpha, mean, record)
                self.G.backward(((x_tilde * g).sum() + self.config.range * overshoot(x_tilde)) / len(z))
                if record is not None:
                    record.add(**diversity(x[i], x_tilde))
        self.G.step(rates.lr, rates.ema_decay)

    @torch.no_grad()
    def _mean_before(self, parts: list[Tensor], alpha: float, images=lambda part: part) -> Tensor | None:
        """The global mean of the experts' probabilities where several micro-batches make it up: a pass of its own; else None."""
        if len(parts) == 1:
            return None
        return mean_of_all([probabilities(self.U(images(part), alpha, True)) for part in parts])
