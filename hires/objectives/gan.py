"""The baseline of VGAN (Zhai et al. 2016, §7.1): the same networks and round with one sigmoid unit D in place of the experts, a GAN.

    U(x)       = -ln D(x)
    energy     L_alpha = E U(x) - E ln(1 - D(x_tilde)) + lambda_s (E s(x)^2 + E s(x_tilde)^2)
    generator  L_theta = E U(x_tilde) + range term               the form that does not saturate (Goodfellow et al. 2014)

With `energy_sees=samples_and_corrupted` the second and last means of L_alpha are over samples and as many corrupted real images
(hires/objectives/corruption.py). The energy is low where D takes an image for real, and has no bound above.
"""

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
import torch.nn.functional as F

from hires.errors import HiresError
from hires.ground.ranges import setting
from hires.networks import Generator, NetworkConfig, dcgan32, p3
from hires.networks.expert_energy import GanEnergy
from hires.objectives import vgan
from hires.objectives.base import Draw, ObjectiveConfig
from hires.objectives.corruption import corrupted, size_of


@dataclass
class Config(ObjectiveConfig):
    """The order of the updates."""

    name: str = "gan"
    generator_steps: int = setting(1, at_least=1)
    lambda_s: float = setting(0.01, at_least=0)  # L2 on the scores, as in vgan
    range: float = setting(10.0, at_least=0)  # weight of the mean of max(|x| - 1, 0)^2 over samples

    energy_sees: str = setting("samples", among=("samples", "samples_and_corrupted"))  # its fakes, as the triangle's

    players = vgan.Config.players

    def fullest(self, kept: dict[str, int], whole: bool) -> int:
        g, u = kept["generator"], kept["energy"]
        return max((g if whole else 0) + (2 if self.energy_sees == "samples" else 3) * u, g + u)


class Objective(vgan.Objective):
    """VGAN's round with a GAN's losses."""

    Settings = Config
    LOSSES = {
        "energy": "E U(x) − E ln(1 − D(x̃)) + λ_s (E s(x)² + E s(x̃)²), U = −ln D, D = sigmoid(s)",
        "generator": "E U(x̃) + range",
    }
    TERMS = {
        "energy": ("energy_real", "energy_fake", "energy_gap", "score_square", "loss_energy"),
        "generator": ("energy_slope", "diversity"),
    }
    LINE = {"E(real)": "energy_real", "E(fake)": "energy_fake", "div": "diversity"}
    SHAPED_BY = ()
    LARGE = ("corruption",)

    @staticmethod
    def network(config: Config, shape: NetworkConfig, player: str, resolution: int, fading: bool) -> nn.Module:
        if family := {"p3": p3, "dcgan32": dcgan32}.get(shape.kind):
            return (family.Generator if player == "generator" else family.GanEnergy)(shape, resolution, fading)
        return (Generator if player == "generator" else GanEnergy)(shape, resolution, fading)

    @staticmethod
    def check(config: Config, shape: NetworkConfig, zero_stage: int) -> None:
        if shape.kind not in ("growing", "p3", "dcgan32"):
            raise HiresError(f"network.kind={shape.kind} with objective=gan: wanted growing networks, network=p3 or dcgan32")

    def batch(self, x: Tensor, alpha: float, draw: Draw, latent: int) -> vgan.Batch:
        one = super().batch(x, alpha, draw, latent)
        if cast(Config, self.config).energy_sees == "samples_and_corrupted":
            one.corrupted = corrupted(x, draw("corruption", size_of(x)))
        return one

    def energy_loss(self, real: Tensor, fake: Tensor, mean: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """L_alpha without its last term of scores (B, 1) of real images and fakes, and terms."""
        u_x, u_f = F.softplus(-real).mean(), F.softplus(-fake[: len(real)]).mean()  # of samples alone
        return u_x + F.softplus(fake).mean(), {"energy_real": u_x, "energy_fake": u_f, "energy_gap": u_f - u_x}

    def pull(self, scores: Tensor, mean: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """E U(x_tilde) of samples' scores (B, 1)."""
        return F.softplus(-scores).mean(), {}

    def _mean_before(self, parts: list[Tensor], alpha: float, images=None) -> None:
        """No batch statistic stands in these losses."""
