"""f-EBM (Yu et al., ICML 2020): an energy-based model trained by any f-divergence, with a variational function H beside it.

With x real (faded while growing), x_q from Langevin chains of the energy (replay.py; or begun by a generator: proposals.py), r = H + U,
the model's log p/q, and A, B of the divergence (divergences.py), the players step one after the other, each seeing the other as it stands:

    variational  L_omega = -[E_p A(r) - E_q B(r)] + lambda_H (E_p H^2 + E_q H^2)
    energy       L_theta =   E_p A(r) - E_q B(r) + Cov_q(U, B) + lambda_U (E_p U^2 + E_q U^2),   the covariance's B held fixed

The covariance's mean of B is over the global batch. The players exchange numbers (B,), H's and U's of the same pictures. Against the
published image code: exponents go on straight beyond their limit instead of being cut off (divergences.py says why), and gradients are not
clipped one by one at three of Adam's deviations. objective=p4 has the rest of its recipe.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
import torch.distributed as dist

from hires import networks
from hires.ground.ranges import setting
from hires.networks import NetworkConfig
from hires.objectives import base, divergences
from hires.objectives.base import Carried, Draw, ObjectiveConfig, Pictures, Player, Rates, Record
from hires.objectives.contrastive_divergence import Batch, energies, noised, paired, squares
from hires.objectives.divergences import bound, divergence, energy_loss
from hires.objectives.proposals import Proposals
from hires.objectives.replay import Chains, ChainsConfig
from hires.objectives.terms import diversity

PLAYERS = ("variational", "energy")  # and, with sampler=generator, the generator


@dataclass
class Config(ObjectiveConfig):
    """The divergence, weights of the bounds on U and H, noise on the data, and the chains; docs/reference/f_ebm.md says what to change."""

    name: str = "f_ebm"
    divergence: str = "jensen_shannon"  # kl | reverse_kl | jensen_shannon | squared_hellinger | pearson | neyman | alpha
    order: float = 0.5  # of divergence=alpha
    limit: float = setting(divergences.LIMIT, above=0)  # of an exponent's argument: beyond it the exponential goes on as its tangent
    lambda_u: float = setting(1.0, at_least=0)  # L2 on the energy, as published: at 0.1 its temperature runs away
    lambda_h: float = setting(1.0, at_least=0)  # L2 on H
    data_noise: float = setting(0.02, at_least=0)  # standard deviation of N(0, 1) noise on real images, at least that of a chain's step
    dequantise: bool = False  # and uniform noise of one of the 256 levels, as published
    warmup: int = setting(0, at_least=0)  # rounds at a level's beginning on the L2 terms alone; 10 as published
    # where the chains begin: replay (a buffer) | generator (its pictures; it learns where they end)
    sampler: str = setting("replay", among=("replay", "generator"))
    chains: ChainsConfig = field(default_factory=ChainsConfig)

    def players(self) -> tuple[str, ...]:
        return (*PLAYERS, "generator") if self.sampler == "generator" else PLAYERS

    def fullest(self, kept: dict[str, int], whole: bool) -> int:
        # one of the two sees x and x_q, or the generator learns
        return max(2 * kept["variational"], 2 * kept["energy"], kept.get("generator", 0))

    def carries(self, resolution: int, channels: int) -> int:
        return 0 if self.sampler == "generator" else self.chains.bytes(resolution, channels)


class Objective(base.Objective):
    """One round of the game; the chains' buffer is what it carries."""

    Settings = Config
    LOSSES = {
        "variational": "−[E A(r(x)) − E B(r(x̃))] + λ_H (E H(x)² + E H(x̃)²),  r = H + U, x̃ by Langevin from a replay buffer",
        "energy": "E A(r(x)) − E B(r(x̃)) + Cov(U(x̃), B(r(x̃))) + λ_U (E U(x)² + E U(x̃)²)",
        "generator": "E (G(z) − x̃)², x̃ by Langevin from G(z)   (with sampler=generator alone)",
    }
    TAKES = {"variational": "x", "energy": "x", "generator": "z"}
    SHAPED_BY = ("sampler",)
    TERMS = {
        "variational": ("bound", "ratio_real", "ratio_fake", "beyond", "variational_size", "loss_variational"),
        "energy": ("energy_real", "energy_fake", "energy_gap", "energy_size", "loss_energy", "chain_slope", "chain_moved", "diversity"),
        "generator": ("loss_generator",),
    }
    LINE = {
        **{"E(real)": "energy_real", "E(fake)": "energy_fake", "r(real)": "ratio_real", "r(fake)": "ratio_fake", "D_f ≥": "bound"},
        **{"|∂U|": "chain_slope", "moved": "chain_moved", "div": "diversity"},
    }

    def __init__(self, config: Config, latent: int, players: Mapping[str, Player]):
        self.config = config
        self.H, self.U = (players[name] for name in PLAYERS)
        self.divergence = divergence(config.divergence, config.order, config.limit)
        self.negatives: Proposals | Chains
        if config.sampler == "generator":
            self.negatives = Proposals(config.chains, players["generator"], latent)
        else:
            self.negatives = Chains(config.chains)

    @staticmethod
    def network(config: Config, shape: NetworkConfig, player: str, resolution: int, fading: bool) -> nn.Module:
        return networks.build(shape, "generator" if player == "generator" else "energy", resolution, fading)  # H has the energy's

    @staticmethod
    def check(config: Config, shape: NetworkConfig, zero_stage: int) -> None:
        divergence(config.divergence, config.order, config.limit)

    def batch(self, x: Tensor, alpha: float, draw: Draw, latent: int, labels: Tensor | None = None) -> Batch:
        return Batch(noised(self.config, x, draw), alpha, draw, labels)

    def round(self, batch: Batch, rates: Rates, resolution: int, due: bool, micro_batch: int = 0) -> dict[str, Tensor]:
        """Run the chains, then update H, the energy, and a generator where there is one."""
        size, alpha = micro_batch or len(batch.x), batch.alpha
        x_q, terms = self.negatives.go_on(lambda x, *y: self.U(x, alpha, *y), batch.x, alpha, batch.draw, micro_batch, batch.labels)
        parts = batch.parts(x_q, size)
        with Record(size / len(batch.x), terms) as record:
            energy = self._numbers(self.U, parts)
            self._variational(parts, energy, rates, record)
            self._energy(parts, energy, self._numbers(self.H, parts), rates, record)
            if isinstance(self.negatives, Proposals):
                record.means |= self.negatives.learn(x_q, alpha, rates, micro_batch)
        return record.means | diversity(batch.x, x_q)

    def pictures(self, networks: dict[str, nn.Module], x: Tensor, z: Tensor, alpha: float) -> Pictures:
        if isinstance(self.negatives, Proposals):
            return self.negatives.pictures(networks, z, alpha)
        return self.negatives.pictures(networks, len(z))

    def carried(self) -> Carried:
        return {} if isinstance(self.negatives, Proposals) else self.negatives.buffer.carried()

    def restore(self, checkpoint: Any) -> None:
        if not isinstance(self.negatives, Proposals):
            self.negatives.buffer.restore(checkpoint)

    def _variational(self, parts, energy, rates: Rates, record: Record) -> None:
        config = self.config
        with self.H.accumulate():
            for part, (e_p, e_q) in zip(parts, energy, strict=True):
                h_p, h_q = paired(self.H, *part)
                r_p, r_q = h_p + e_p, h_q + e_q
                gain = bound(self.divergence, r_p, r_q)
                loss = config.lambda_h * squares(h_p, h_q) - (gain if rates.rounds >= config.warmup else 0)
                self.H.backward(record.share * loss)
                beyond = (torch.cat([r_p, r_q]).detach().abs() > config.limit).float().mean()
                size = (h_p.abs().mean() + h_q.abs().mean()) / 2
                record.add(bound=gain, ratio_real=r_p.mean(), ratio_fake=r_q.mean(), beyond=beyond)
                record.add(variational_size=size, loss_variational=loss)
        self.H.step(rates.lr, rates.ema_decay)

    def _energy(self, parts, energy, variational, rates: Rates, record: Record) -> None:
        b = [self.divergence.B(h_q + e_q).mean() for (_, e_q), (_, h_q) in zip(energy, variational, strict=True)]
        mean_b = over_ranks(torch.stack(b).mean())
        with self.U.accumulate():
            for part, (h_p, h_q) in zip(parts, variational, strict=True):
                e_p, e_q = paired(self.U, *part)
                loss = self.config.lambda_u * squares(e_p, e_q)
                if rates.rounds >= self.config.warmup:
                    loss = loss + energy_loss(self.divergence, h_p + e_p, h_q + e_q, e_q, mean_b)
                self.U.backward(record.share * loss)
                record.add(loss_energy=loss, **energies(e_p, e_q))
        self.U.step(rates.energy_lr, rates.ema_decay)

    @torch.no_grad()
    def _numbers(self, player, parts) -> list[tuple[Tensor, Tensor]]:
        """A player's numbers of each part's data and samples: a message, without a graph."""
        return [paired(player, *part) for part in parts]


def over_ranks(mean: Tensor) -> Tensor:
    """The mean over the ranks of each one's mean, without a graph; a collective."""
    if dist.get_world_size() > 1:
        mean = mean.clone()
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean
