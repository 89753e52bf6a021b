"""A Wasserstein GAN with gradient penalty (Gulrajani et al. 2017): the baseline WGAN of P1's and P2's tables, which do not tell its recipe.

With x real (faded while growing), z ~ N(0, I), x_tilde = G(z), and x_u = u x + (1 - u) x_tilde, u ~ U(0, 1) for each of the pairs:

    energy     L_alpha = E U(x) - E U(x_tilde) + lambda_gp E (|dU/dx| at x_u - 1)^2         each round
    generator  L_theta = E U(x_tilde) + range term                                          every `critic_steps` rounds, on new latents

The energy U is minus the critic; its gap E U(x_tilde) - E U(x) estimates the distance. A round is one step of the critic, so each of its
steps has images of its own, as published. The first WGAN (Arjovsky et al. 2017) bounds the weights instead, by clipping them, and trains by
RMSprop: both would be the optimizer's for this one system, where a penalty stands in the loss, and Adam is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import math

import torch
from torch import Tensor, nn

from hires import networks
from hires.errors import HiresError
from hires.ground.ranges import setting
from hires.networks import NetworkConfig
from hires.objectives import base
from hires.objectives.base import Draw, ObjectiveConfig, Pictures, Player, Rates, Record, fakes
from hires.objectives.contrastive_divergence import paired
from hires.objectives.replay import uniform
from hires.objectives.terms import diversity, overshoot

PLAYERS = ("generator", "energy")


@dataclass
class Config(ObjectiveConfig):
    """The order of the updates and the weight of the penalty, as published."""

    name: str = "wgan"
    critic_steps: int = setting(5, at_least=1)  # of the energy, a round each, for one of the generator
    lambda_gp: float = setting(10.0, at_least=0, below=math.inf)  # of the squared distance of the gradient's norm from 1
    range: float = setting(10.0, at_least=0, below=math.inf)  # weight of the mean of max(|x| - 1, 0)^2 over samples, as in gan

    def players(self) -> tuple[str, ...]:
        return PLAYERS

    def fullest(self, kept: dict[str, int], whole: bool) -> int:
        g, u = kept["generator"], kept["energy"]
        return max(2 * u, g + u)  # the energy sees x and x_tilde; the graph of the penalty's gradient is below two passes


@dataclass
class Batch:
    """What one rank needs for a round: real images (B, C, r, r), faded; latents (B, d) of either player's turn; u (B, 1) in (0, 1)."""

    x: Tensor
    z: Tensor
    z_own: Tensor
    u: Tensor
    alpha: float = 1.0


class Objective(base.Objective):
    """One round of the game on two players; see the module's text for the losses."""

    Settings = Config
    LOSSES = {
        "energy": "E U(x) − E U(x̃) + λ_gp E (|∂U/∂x| − 1)², the slope at points between x and x̃",
        "generator": "E U(x̃) + range, every critic_steps rounds",
    }
    TAKES = {"generator": "z", "energy": "x"}
    TERMS = {
        "energy": ("energy_real", "energy_fake", "energy_gap", "energy_slope", "penalty", "loss_energy"),
        "generator": ("diversity",),
    }
    LINE = {"E(real)": "energy_real", "E(fake)": "energy_fake", "|∂U|": "energy_slope", "div": "diversity"}

    def __init__(self, config: Config, latent: int, players: Mapping[str, Player]):
        self.config, self.every = config, config.critic_steps
        self.G, self.U = (players[name] for name in PLAYERS)

    @staticmethod
    def network(config: Config, shape: NetworkConfig, player: str, resolution: int, fading: bool) -> nn.Module:
        return networks.build(shape, player, resolution, fading)

    @staticmethod
    def check(config: Config, shape: NetworkConfig, zero_stage: int) -> None:
        if shape.kind == "dcgan64":
            base.require_single("objective=wgan", shape)
        if zero_stage == 3:
            raise HiresError("objective=wgan with zero.stage=3: its penalty's second derivative crashes in ZeRO-3; set zero.stage=2")

    def batch(self, x: Tensor, alpha: float, draw: Draw, latent: int) -> Batch:
        return Batch(x, draw("latent", latent), draw("latent1", latent), uniform(draw("between", 1)), alpha)

    def round(self, batch: Batch, rates: Rates, resolution: int, due: bool, micro_batch: int = 0) -> dict[str, Tensor]:
        """Update the energy; the generator's step is what may be `due`."""
        size = micro_batch or len(batch.x)
        with Record(size / len(batch.x)) as record:
            with self.U.accumulate():
                for x, z, u in zip(*(whole.split(size) for whole in (batch.x, batch.z, batch.u)), strict=True):
                    self._criticise(x, z, u[:, :, None, None], batch.alpha, record)
            self.U.step(rates.energy_lr, rates.ema_decay)
            if due:
                with self.G.accumulate():
                    for z in batch.z_own.split(size):
                        self._pull(z, batch.alpha, record.share)
                self.G.step(rates.lr, rates.ema_decay**self.every)  # its average is to forget by images too
        return record.means

    def pictures(self, networks: dict[str, nn.Module], x: Tensor, z: Tensor, alpha: float) -> Pictures:
        return fakes(networks["generator"], z, alpha)

    # -------------------------------------------------------------------------------------------- turns

    def _criticise(self, x: Tensor, z: Tensor, u: Tensor, alpha: float, record: Record) -> None:
        """L_alpha into the energy."""
        with torch.no_grad():
            x_tilde = self.G(z, alpha)
        e_x, e_f = paired(self.U, x, x_tilde, alpha)
        gap = e_f.mean() - e_x.mean()
        self.U.backward(-record.share * gap)  # a backward of its own: its graph need not wait for the penalty's
        x_u = (u * x + (1 - u) * x_tilde).requires_grad_()
        (gradient,) = torch.autograd.grad(self.U(x_u, alpha).sum(), x_u, create_graph=True)
        slope = gradient.float().flatten(1).norm(dim=1)
        penalty = self.config.lambda_gp * (slope - 1).square().mean()
        self.U.backward(record.share * penalty)
        record.add(energy_real=e_x.mean(), energy_fake=e_f.mean(), energy_gap=gap, energy_slope=slope.mean())
        record.add(penalty=penalty, loss_energy=penalty - gap, **diversity(x, x_tilde))

    def _pull(self, z: Tensor, alpha: float, share: float) -> None:
        """L_theta into the generator."""
        x_tilde = self.G(z, alpha)
        leaf = x_tilde.detach().requires_grad_()
        (g,) = torch.autograd.grad(self.U(leaf, alpha).mean(), leaf)
        self.G.backward(share * ((x_tilde * g).sum() + self.config.range * overshoot(x_tilde)))
