"""The baseline of VGAN (Zhai et al. 2016, §7.1): the same networks and round with one sigmoid unit D in place of the experts, a GAN.

    U(x)       = -ln D(x)
    energy     L_alpha = E U(x) - E ln(1 - D(x_tilde)) + lambda_s (E s(x)^2 + E s(x_tilde)^2)
    generator  L_theta = E U(x_tilde) + range term               the form that does not saturate (Goodfellow et al. 2014)

With `contrast=pairs` D is asked which of two images is the real one (Jolicoeur-Martineau 2019), with a sigmoid of the difference of scores:

    energy     L_alpha = E softplus(s(x_tilde) - s(x)) [+ lambda_s …] [+ gamma / 2 E |ds/dx|^2, of x and x_tilde, every few steps]
    generator  L_theta = E softplus(s(x) - s(x_tilde)) + range term

which with the penalty on both sides is R3GAN's loss (Huang et al. 2024); objective=r3gan. With `energy_sees=samples_and_corrupted` the
means of L_alpha over x_tilde are over samples and as many corrupted real images (hires/objectives/corruption.py). The energy is low where D
takes an image for real, and has no bound above.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import math

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from hires.errors import HiresError
from hires.ground.ranges import setting
from hires.networks import Generator, NetworkConfig, batch_norm, dcgan32, dcgan64, p3
from hires.networks.expert_energy import GanEnergy
from hires.objectives import base, vgan
from hires.objectives.base import Draw, ObjectiveConfig, Penalised, Player, Rates, Record
from hires.objectives.corruption import corrupted, size_of
from hires.objectives.terms import squared_slopes


@dataclass
class Config(Penalised, ObjectiveConfig):
    """The form of the contrast, the weights of the terms and the order of the updates."""

    name: str = "gan"
    generator_steps: int = setting(1, at_least=1)
    lambda_s: float = setting(0.01, at_least=0)  # L2 on the scores, as in vgan
    range: float = setting(10.0, at_least=0)  # weight of the mean of max(|x| - 1, 0)^2 over samples
    # how D is trained: sigmoid of each score | of the difference of a pair's
    contrast: str = setting("logistic", among=("logistic", "pairs"))
    # gamma at 32x32, which goes with the resolution as the triangle's does; 0 = off
    r1: float = setting(0.0, at_least=0, below=math.inf)
    r1_every: int = setting(8, at_least=1)  # steps from one penalty to the next; it weighs as many times more
    energy_sees: str = setting("samples", among=("samples", "samples_and_corrupted"))  # its fakes, as the triangle's

    players = vgan.Config.players

    def fullest(self, kept: dict[str, int], whole: bool) -> int:
        g, u = kept["generator"], kept["energy"]
        seen = 2 if self.energy_sees == "samples" else 3
        return max((g if whole else 0) + max(seen, 4 if self.r1 else 0) * u, g + u)  # a penalised pass keeps nearly twice as much

    def weights_at(self, resolution: int) -> dict[str, float]:
        return {"γ": self.gamma(resolution)} if self.r1 else {}


class Objective(vgan.Objective):
    """VGAN's round with a GAN's losses."""

    Settings = Config
    LOSSES = {
        "energy": "E U(x) − E ln(1 − D(x̃)), U = −ln D, D = sigmoid(s) (pairs: E softplus(s(x̃) − s(x))) "
        "+ λ_s (E s(x)² + E s(x̃)²) + γ/2 E |∂s/∂x|²",
        "generator": "E U(x̃) (pairs: E softplus(s(x) − s(x̃))) + range",
    }
    TERMS = {
        "energy": ("energy_real", "energy_fake", "energy_gap", "score_square", "loss_energy", "r1"),
        "generator": ("energy_slope", "diversity"),
    }
    LINE = {"E(real)": "energy_real", "E(fake)": "energy_fake", "div": "diversity"}
    SHAPED_BY = ()
    LARGE = ("corruption",)

    def __init__(self, config: Config, latent: int, players: Mapping[str, Player]):
        super().__init__(config, latent, players)
        self.every, self.pairs = config.r1_every, config.contrast == "pairs"
        self.by_kind = bool(batch_norm.layers(self.U.network))  # as DCGAN's: the generator's samples come to it alone, too

    @staticmethod
    def network(config: Config, shape: NetworkConfig, player: str, resolution: int, fading: bool) -> nn.Module:
        if family := {"p3": p3, "dcgan32": dcgan32, "dcgan64": dcgan64}.get(shape.kind):
            return (family.Generator if player == "generator" else family.GanEnergy)(shape, resolution, fading)
        return (Generator if player == "generator" else GanEnergy)(shape, resolution, fading)

    @staticmethod
    def check(config: Config, shape: NetworkConfig, zero_stage: int) -> None:
        if shape.kind not in ("growing", "p3", "dcgan32", "dcgan64"):
            raise HiresError(f"network.kind={shape.kind} with objective=gan: wanted growing networks, network=p3, dcgan32 or dcgan64")
        if config.r1 and shape.kind in ("dcgan32", "dcgan64"):
            base.require_single(f"objective.r1={config.r1}", shape)
        if zero_stage == 3 and config.r1:
            raise HiresError("objective.r1 with zero.stage=3: its second derivative crashes in ZeRO-3; set objective.r1=0 or zero.stage=2")

    def batch(self, x: Tensor, alpha: float, draw: Draw, latent: int) -> vgan.Batch:
        one = super().batch(x, alpha, draw, latent)
        if self.config.energy_sees == "samples_and_corrupted":
            one.corrupted = corrupted(x, draw("corruption", size_of(x)))
        return one

    def round(self, batch: vgan.Batch, rates: Rates, resolution: int, due: bool, micro_batch: int = 0) -> dict[str, Tensor]:
        """Update the energy once, then the generator `generator_steps` times; the gradient penalty is what may be `due`."""
        self.gamma = self.config.gamma(resolution) if due else 0.0
        return super().round(batch, rates, resolution, due, micro_batch)

    def energy_loss(self, real: Tensor, fake: Tensor, mean: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """L_alpha without its terms of lambda_s and gamma, of scores (B, 1) of real images and fakes, and terms."""
        u_x, u_f = F.softplus(-real).mean(), F.softplus(-fake[: len(real)]).mean()  # of samples alone
        apart = F.softplus(fake - real.repeat(len(fake) // len(real), 1)).mean() if self.pairs else u_x + F.softplus(fake).mean()
        return apart, {"energy_real": u_x, "energy_fake": u_f, "energy_gap": u_f - u_x}

    def penalise(self, x: Tensor, x_tilde: Tensor, alpha: float, share: float, record: Record) -> None:
        if self.gamma:
            images = torch.cat([x, x_tilde[: len(x)]]).requires_grad_()
            penalty = 0.5 * self.gamma * squared_slopes(self.U(images, alpha, True), images) / len(x)
            self.U.backward(share * self.config.r1_every * penalty)
            record.add(r1=penalty)

    def force(self, x: Tensor, x_tilde: Tensor, alpha: float, mean: Tensor | None, record: Record | None) -> Tensor:
        if self.pairs:
            with torch.no_grad():
                mean = self.U(x, alpha, True)
        return super().force(x, x_tilde, alpha, mean, record)

    def pull(self, scores: Tensor, mean: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """L_theta without its range term, of samples' scores (B, 1); `mean`: with pairs the scores of their real images."""
        return F.softplus(-scores if mean is None else mean - scores).mean(), {}

    def _mean_before(self, parts: list[Tensor], alpha: float, images=None) -> None:
        """No batch statistic stands in these losses."""
