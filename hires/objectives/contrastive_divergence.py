"""Contrastive divergence: an energy-based model alone, by maximum likelihood with persistent Langevin chains; the baseline of f-EBM.

    energy     L_theta = E_p U(x) - E_q U(x_q) + lambda_U (E_p U^2 + E_q U^2)

x real (faded while growing) with a little noise, x_q from the chains (replay.py). Means over batch and ranks; the chains' pictures come
without gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from hires import networks
from hires.ground.ranges import setting
from hires.networks import NetworkConfig
from hires.objectives import base
from hires.objectives.base import Carried, Draw, ObjectiveConfig, Pictures, Player, Rates, Record
from hires.objectives.replay import Chains, ChainsConfig, uniform
from hires.objectives.terms import diversity

PLAYERS = ("energy",)


@dataclass
class Config(ObjectiveConfig):
    """Weight of the bound on the energy, noise on the data, and the chains."""

    name: str = "contrastive_divergence"
    lambda_u: float = setting(1.0, at_least=0)  # L2 on the energy, as published: at 0.1 its temperature runs away
    data_noise: float = setting(0.02, at_least=0)  # standard deviation of N(0, 1) noise on real images, at least that of a chain's step
    dequantise: bool = False  # and uniform noise of one of the 256 levels, as published
    chains: ChainsConfig = field(default_factory=ChainsConfig)

    def players(self) -> tuple[str, ...]:
        return PLAYERS

    def fullest(self, kept: dict[str, int], whole: bool) -> int:
        return 2 * kept["energy"]  # the energy sees x and x_q

    def carries(self, resolution: int, channels: int) -> int:
        return self.chains.bytes(resolution, channels)


@dataclass
class Batch:
    """What one rank needs for a round: real images (faded, with noise) (B, C, r, r), where the chains' noise comes from, and labels (B,)
    where the networks read them.
    """

    x: Tensor
    alpha: float
    draw: Draw
    labels: Tensor | None = None

    def parts(self, x_q: Tensor, size: int) -> list[tuple]:
        """What `paired` reads beside a network, `size` rows at a time, for samples x_q as many as there are images."""
        labels = [] if self.labels is None else [self.labels.split(size)]
        return list(zip(self.x.split(size), x_q.split(size), repeat(self.alpha), *labels, strict=False))


class Objective(base.Objective):
    """One round on one player; the chains' buffer is what it carries."""

    Settings = Config
    LOSSES = {"energy": "E U(x) − E U(x̃) + λ_U (E U(x)² + E U(x̃)²),  x̃ by Langevin from a replay buffer"}
    TAKES = {"energy": "x"}
    TERMS = {
        "energy": (
            *("energy_real", "energy_fake", "energy_gap", "energy_size", "loss_energy", "chain_slope", "chain_moved"),
            "diversity",
        )
    }
    LINE = {"E(real)": "energy_real", "E(fake)": "energy_fake", "|∂U|": "chain_slope", "moved": "chain_moved", "div": "diversity"}

    def __init__(self, config: Config, latent: int, players: Mapping[str, Player]):
        self.config, self.U = config, players["energy"]
        self.chains = Chains(config.chains)

    @staticmethod
    def network(config: Config, shape: NetworkConfig, player: str, resolution: int, fading: bool) -> nn.Module:
        return networks.build(shape, "energy", resolution, fading)

    def batch(self, x: Tensor, alpha: float, draw: Draw, latent: int, labels: Tensor | None = None) -> Batch:
        return Batch(noised(self.config, x, draw), alpha, draw, labels)

    def round(self, batch: Batch, rates: Rates, resolution: int, due: bool, micro_batch: int = 0) -> dict[str, Tensor]:
        """Continue the chains, then update the energy."""
        size, alpha = micro_batch or len(batch.x), batch.alpha
        x_q, terms = self.chains.go_on(lambda x, *y: self.U(x, alpha, *y), batch.x, alpha, batch.draw, micro_batch, batch.labels)
        with Record(size / len(batch.x), terms) as record:
            self._energy(batch.parts(x_q, size), rates, record)
        return record.means | diversity(batch.x, x_q)

    def pictures(self, networks: dict[str, nn.Module], x: Tensor, z: Tensor, alpha: float) -> Pictures:
        return self.chains.pictures(networks, len(z))

    def carried(self) -> Carried:
        return self.chains.buffer.carried()

    def restore(self, checkpoint: Any) -> None:
        self.chains.buffer.restore(checkpoint)

    def _energy(self, parts: list[tuple], rates: Rates, record: Record) -> None:
        with self.U.accumulate():
            for part in parts:
                e_p, e_q = paired(self.U, *part)
                loss = e_p.mean() - e_q.mean() + self.config.lambda_u * squares(e_p, e_q)
                self.U.backward(record.share * loss)
                record.add(loss_energy=loss, **energies(e_p, e_q))
        self.U.step(rates.energy_lr, rates.ema_decay)


def noised(config: Any, x: Tensor, draw: Draw) -> Tensor:
    """Real images (B, C, r, r) with the noise that `data_noise` and `dequantise` say."""
    if config.dequantise:  # the level p of 255 becomes (p + u) / 256 of the range, u uniform
        x = ((x + 1) * 127.5 + uniform(draw("level", x[0].numel())).view(x.shape)) / 128 - 1
    return x + config.data_noise * draw("data", x[0].numel()).view(x.shape) if config.data_noise else x


def paired(network, x_p: Tensor, x_q: Tensor, alpha: float, *labels: Tensor) -> tuple[Tensor, Tensor]:
    """A network's numbers (B,) of data and of samples, out of one pass; with labels (B,) a sample has that of the image in its row."""
    both = network(torch.cat([x_p, x_q]), alpha, *(torch.cat([y, y]) for y in labels))
    return both[: len(x_p)], both[len(x_p) :]


def squares(on_p: Tensor, on_q: Tensor) -> Tensor:
    """E_p v^2 + E_q v^2: what bounds an energy or a variational function."""
    return on_p.square().mean() + on_q.square().mean()


def energies(e_p: Tensor, e_q: Tensor) -> dict[str, Tensor]:
    """Measures of the energy on data and samples."""
    size = (e_p.abs().mean() + e_q.abs().mean()) / 2
    return {"energy_real": e_p.mean(), "energy_fake": e_q.mean(), "energy_gap": e_q.mean() - e_p.mean(), "energy_size": size}
