"""A variational auto-encoder (Kingma and Welling, ICLR 2014) on the triangle's networks: the baseline that P2 compares its pairs with.

With x real (faded while growing), (mu, logvar) = I(x), z_tilde = mu + exp(logvar / 2) eps and x_hat = G(z_tilde), both players lower

    L = kappa R + beta d K [+ range term of x_hat]

R = mse(x_hat, x) and K = KL(q(z | x) || N(0, I)) per dimension: beta times minus the evidence bound, up to a constant, of a Gaussian
p(x | z) with variance s^2 = beta D / (2 kappa), for D pixel values and d latent dimensions. Nothing is drawn from the prior in training.
The players exchange tensors: z_tilde, and kappa dR/dz_tilde, never graphs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from hires.ground.ranges import setting
from hires.objectives import base
from hires.objectives.base import Draw, ObjectiveConfig, Player, Rates, Reconstructs, Record
from hires.objectives.terms import BOXES, kl, overshoot, residual, soft_clamp

PLAYERS = ("generator", "inference")


@dataclass
class Config(Reconstructs, ObjectiveConfig):
    """Weights of the terms, in the scale of the other systems: kappa of a mean over pixels, beta of a sum over latent dimensions."""

    name: str = "vae"
    kappa_pixel: float = setting(3.0, at_least=0)  # kappa(r) = min(kappa_pixel r^2, kappa_max)
    kappa_max: float = setting(256.0, at_least=0)  # the triangle's
    beta: float = setting(0.125, at_least=0)  # once the triangle's: at 16x16 in grey s^2 = 0.06, a standard deviation of 0.25 on [-1, 1]
    logvar_min: float = -8.0  # soft clamp of the log-variance; min >= max turns it off
    logvar_max: float = 4.0
    # R compares means of boxes, in pixels a side; 1: a density of every pixel
    reconstruct_box: int = setting(1, among=BOXES, wanted="a power of two, 1 for every pixel")
    # weight of the mean of max(|x| - 1, 0)^2 over reconstructions: a linear output has no other bound
    range: float = setting(768.0, at_least=0)

    def players(self) -> tuple[str, ...]:
        return PLAYERS

    def together(self) -> tuple[tuple[str, ...], ...]:
        return (PLAYERS,)

    def fullest(self, kept: dict[str, int], whole: bool) -> int:
        return kept["generator"] + kept["inference"]  # the posterior's graph waits while G reconstructs

    def weights_at(self, resolution: int) -> dict[str, float]:
        return {"κ": self.kappa(resolution)}


def minus_bound(config: Config, x: Tensor, posterior: tuple[Tensor, Tensor], generate: Callable[[Tensor], Tensor]) -> Tensor:
    """kappa R + beta d K of each image of x (B, C, r, r) at its mean code, (B,): beta times minus the evidence bound, up to a constant.

    `posterior` is (mu, logvar) (B, d) of x, `generate` maps latents to images. At the mean, not at a draw: the score is to be of the image.
    """
    mu, logvar = posterior
    logvar = soft_clamp(logvar, config.logvar_min, config.logvar_max)
    R = residual(generate(mu), x, config.reconstruct_box).square().mean((1, 2, 3))
    return config.kappa(x.shape[-1]) * R - 0.5 * config.beta * (1 + logvar - mu.square() - logvar.exp()).sum(1)


@dataclass
class Batch:
    """What one rank needs for a round: real images (faded) (B, C, r, r) and posterior noise (B, d), on the device."""

    x: Tensor
    eps: Tensor
    alpha: float = 1.0


class Objective(base.Objective):
    """One round on two players that step from one point; see the module's text for the loss."""

    Settings = Config
    LOSSES = {
        "generator": "κ R(x, x̂) + range",
        "inference": "κ R(x, x̂) + β K(q(z|x) ‖ p(z))",
    }
    TAKES = {"generator": "z", "inference": "x"}
    TERMS = {"generator": ("R", "loss"), "inference": ("K", "logvar")}
    LINE = {"L": "loss", "R": "R", "K": "K", "logvar": "logvar"}

    def __init__(self, config: Config, latent: int, players: Mapping[str, Player]):
        self.config, self.beta = config, config.beta * latent
        self.G, self.I = (players[name] for name in PLAYERS)

    @staticmethod
    def gives(config: Config, networks: Mapping[str, nn.Module], alpha: float) -> dict[str, Callable]:
        G, I = networks["decoder"], networks["inference"]  # noqa: E741 - the papers' name
        return {"bound": lambda x: minus_bound(config, x, I(x, alpha), lambda z: G(z, alpha))}

    def batch(self, x: Tensor, alpha: float, draw: Draw, latent: int) -> Batch:
        return Batch(x, draw("posterior", latent), alpha)

    def round(self, batch: Batch, rates: Rates, resolution: int, due: bool, micro_batch: int = 0) -> dict[str, Tensor]:
        """Update both players once."""
        kappa, size = self.config.kappa(resolution), micro_batch or len(batch.x)
        parts = list(zip(batch.x.split(size), batch.eps.split(size), strict=True))
        with Record(1 / len(parts)) as record:
            with self.G.accumulate(), self.I.accumulate():
                for x, eps in parts:
                    self._backward(x, eps, batch.alpha, kappa, record)
            self.I.step(rates.lr, rates.ema_decay)
            self.G.step(rates.lr, rates.ema_decay)
        return record.means

    def _backward(self, x: Tensor, eps: Tensor, alpha: float, kappa: float, record: Record) -> None:
        """L into both players: G's backward pass gives its own gradient and what the reconstruction says to z_tilde."""
        mu, logvar = self.I(x, alpha)
        logvar = soft_clamp(logvar, self.config.logvar_min, self.config.logvar_max)
        z_tilde = mu + (0.5 * logvar).exp() * eps
        leaf = z_tilde.detach().requires_grad_()
        x_hat = self.G(leaf, alpha)
        R, K = residual(x_hat, x, self.config.reconstruct_box).square().mean(), kl(mu, logvar)
        self.G.backward(record.share * (kappa * R + self.config.range * overshoot(x_hat)))
        self.I.backward((z_tilde * leaf.grad).sum() + record.share * self.beta * K)
        record.add(loss=kappa * R + self.beta * K, R=R, K=K, logvar=logvar.mean())
