"""Joint training of a variational auto-encoder and a latent energy-based model (Han et al., CVPR 2020): energies of pairs U(x, z).

With x real (faded while growing), z ~ N(0, I), x_tilde = G(z), (mu, logvar) = I(x), z_tilde = mu + exp(logvar / 2) eps, x_hat = G(z_tilde),
a triangle of divergences between Q(x, z) = data(x) q(z | x), P(x, z) = p(z) N(x; G(z), s^2) and Pi(x, z) ~ exp(-U(x, z) / beta):

    energy     L_alpha = E U(x, z_tilde) - E U(x_tilde, z) + lambda_U (E U(x, z_tilde)^2 + E U(x_tilde, z)^2) [+ penalty, every few steps]
    inference  L_phi   = kappa R + beta d E z_tilde^2 / 2 - E U(x, z_tilde)                      (eq. 15: KL(Q || P) - KL(Q || Pi))
           or  L_phi   = kappa R + beta d E (z_tilde^2 / 2 + 2 log q) + E U(x, z_tilde)          (eq. 17: KL(Q || P) + KL(Q || Pi))
    generator  L_theta = kappa R + E U(x_tilde, z) [+ range term]

R = mse(x_hat, x) of box means, z_tilde^2 and log q(z_tilde | x) per dimension: means, never sums; s^2 = beta D / (2 kappa) for D pixel
values. In eq. 15 the entropy of q stands in both divergences and cancels, so L_phi holds none. The players exchange tensors, among them
dE U/dx_tilde, dE U/dz_tilde and kappa dR/dz_tilde, never graphs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hires import networks
from hires.errors import HiresError
from hires.ground.ranges import setting
from hires.networks import NetworkConfig, p2
from hires.networks.pair_energy import PairEnergy
from hires.objectives import base
from hires.objectives.base import Draw, ObjectiveConfig, Penalised, Player, Rates, Reconstructs, Record
from hires.objectives.terms import BOXES, diversity, overshoot, reconstruction_pull, residual, soft_clamp

PLAYERS = ("generator", "energy", "inference")
UPDATES = ("published", "energy_first")
EQUATIONS = ("eq15", "eq17")


@dataclass
class Config(Reconstructs, Penalised, ObjectiveConfig):
    """Weights of the terms and the order of the updates; docs/reference/latent_ebm.md says where they come from."""

    name: str = "latent_ebm"
    # published: alpha, phi, theta, each at the others' new weights | energy_first: alpha, then the others
    updates: str = setting("energy_first", among=UPDATES)
    inference_loss: str = setting("eq15", among=EQUATIONS)  # eq15 | eq17
    kappa_pixel: float = setting(3.0, at_least=0)  # kappa(r) = min(kappa_pixel r^2, kappa_max)
    # the published code's sum of squares is 3072 at 32x32; at 256 R parts the posterior from the prior
    kappa_max: float = setting(16.0, at_least=0)
    # weight of |z_tilde|^2 / 2 and of log q, summed over the d dimensions: Pi's temperature; 1 as published
    beta: float = setting(0.02, at_least=0)
    lambda_u: float = setting(0.1, at_least=0)  # L2 on the energy
    logvar_min: float = -8.0  # soft clamp of the log-variance; min >= max turns it off
    logvar_max: float = 4.0
    # identity (bounded by lambda_u) | softplus (spectral normalisation, as published)
    energy: str = setting("identity", among=("identity", "softplus"))
    # gamma at 32x32, on the image's gradient at both kinds of pairs; scales with (r / 32)^2 from 16x16 up; 0 = off
    r1: float = setting(1.0, at_least=0)
    r1_z: float = setting(0.25, at_least=0)  # gamma_z, on the latent's gradient, the same at every resolution; 0 = off
    r1_every: int = setting(8, at_least=1)  # steps from one penalty to the next; it weighs as many times more
    # R compares means of boxes, in pixels a side (never below 8x8)
    reconstruct_box: int = setting(4, among=BOXES, wanted="a power of two, 1 for every pixel")
    # weight of the mean of max(|x| - 1, 0)^2 over samples and reconstructions: a linear output has no other bound
    range: float = setting(768.0, at_least=0)

    def players(self) -> tuple[str, ...]:
        return PLAYERS

    def together(self) -> tuple[tuple[str, ...], ...]:
        both = (("inference", "generator"),) if self.updates == "energy_first" else (("inference",), ("generator",))
        return (("energy",), *both)

    def fullest(self, kept: dict[str, int], whole: bool) -> int:
        # the synthesis and the posterior wait (where the batch is whole; else they are made again) while the energy sees two pairs, which
        # keep nearly twice as much where their gradient is penalised; or beside them G reconstructs and the energy sees one
        g, u, i = (kept[name] for name in PLAYERS)
        seen = 4 if self.r1 or self.r1_z else 2
        return max((g + i if whole else 0) + seen * u, g + i + g + u)

    def weights_at(self, resolution: int) -> dict[str, float]:
        return {"κ": self.kappa(resolution), "γ": self.gamma(resolution)}


@dataclass
class Batch:
    """What one rank needs for a round: real images (faded) (B, C, r, r), latents and posterior noise (B, d), on the device."""

    x: Tensor
    z: Tensor
    eps: Tensor
    alpha: float = 1.0


@dataclass
class Pairs:
    """The two draws of a round: x_tilde of z and z_tilde of x with its log-variance, graphs kept where they fit."""

    x_tilde: Tensor
    z_tilde: Tensor
    logvar: Tensor


class Objective(base.Objective):
    """One round of the game on three players; see the module's text for the losses."""

    Settings = Config
    LOSSES = {
        "energy": "E U(x, z̃) − E U(x̃, z) + λ_U (E U(x, z̃)² + E U(x̃, z)²) + γ/2 E |∂U/∂x|² + γ_z/2 E |∂U/∂z|²",
        "inference": "κ R(x, x̂) + β E z̃²/2 − E U(x, z̃)   (eq15; eq17: κ R + β E (z̃²/2 + 2 log q) + E U(x, z̃))",
        "generator": "κ R(x, x̂) + E U(x̃, z) + range",
    }
    TAKES = {"generator": "z", "energy": "xz", "inference": "x"}
    SHAPED_BY = ("energy",)
    TERMS = {
        "energy": ("energy_real", "energy_fake", "energy_gap", "energy_size", "energy_slope", "energy_slope_z", "loss_energy", "r1"),
        "inference": ("prior", "logvar"),
        "generator": ("R", "rho", "rho_z", "diversity"),
    }
    LINE = {"E(real)": "energy_real", "E(fake)": "energy_fake", "ρ": "rho", "ρz": "rho_z", "R": "R", "z²/2": "prior", "div": "diversity"}

    def __init__(self, config: Config, latent: int, players: Mapping[str, Player]):
        self.config = config
        self.G, self.U, self.I = (players[name] for name in PLAYERS)
        self.beta, self.every = config.beta * latent, config.r1_every
        self.sign = -1.0 if config.inference_loss == "eq15" else 1.0  # of U(x, z_tilde) in phi's loss

    @staticmethod
    def network(config: Config, shape: NetworkConfig, player: str, resolution: int, fading: bool) -> nn.Module:
        if player == "energy":
            return p2.PairEnergy(shape, resolution) if shape.kind == "p2" else PairEnergy(shape, resolution, fading, config.energy)
        return networks.build(shape, player, resolution, fading)

    @staticmethod
    def check(config: Config, shape: NetworkConfig, zero_stage: int) -> None:
        if shape.kind not in ("growing", "p2"):
            found = f"network.kind={shape.kind} with objective=latent_ebm"
            raise HiresError(f"{found}: an energy of pairs is built for growing networks and for network=p2")
        if shape.kind == "p2" and config.energy != "softplus":
            raise HiresError(f"objective.energy={config.energy} with network=p2: its energy of pairs is a softplus; wanted softplus")
        if zero_stage == 3 and (config.r1 or config.r1_z):
            raise HiresError(
                "objective.r1 and r1_z with zero.stage=3: their second derivative crashes in ZeRO-3; set both to 0 or zero.stage=2"
            )
        if zero_stage == 3 and config.energy == "softplus":
            raise HiresError("objective.energy=softplus with zero.stage=3: spectral normalisation needs whole weights; set zero.stage=2")

    def batch(self, x: Tensor, alpha: float, draw: Draw, latent: int) -> Batch:
        return Batch(x, draw("latent", latent), draw("posterior", latent), alpha)

    def round(self, batch: Batch, rates: Rates, resolution: int, due: bool, micro_batch: int = 0) -> dict[str, Tensor]:
        """Update the three players once; the gradient penalty is what may be `due`."""
        self.kappa, self.gamma = self.config.kappa(resolution), self.config.gamma(resolution)
        parts = _split(batch, micro_batch)
        with Record(1 / len(parts)) as record:
            drawn = self._energy_turn(parts, rates, due, record)
            if self.config.updates == "published":
                self._inference_turn(parts, drawn, rates, record)
                self._generator_turn(parts, drawn, rates, record)
            else:
                self._joint_turn(parts, drawn, rates, record)
        return record.means

    # -------------------------------------------------------------------------------------------- turns

    def _energy_turn(self, parts: list[Batch], rates: Rates, due: bool, record: Record) -> list[Pairs]:
        """alpha: lower at (x, z_tilde), higher at (x_tilde, z)."""
        drawn = []
        with self.U.accumulate():
            for part in parts:
                with torch.set_grad_enabled(len(parts) == 1):
                    pairs = Pairs(self.G(part.z, part.alpha), *self._infer(part))
                drawn.append(pairs)
                self._energy_backward(part, pairs, due, record)
        self.U.step(rates.energy_lr, rates.ema_decay)
        return drawn

    def _inference_turn(self, parts: list[Batch], drawn: list[Pairs], rates: Rates, record: Record) -> None:
        """phi alone, at the new energy; z_tilde is alpha's draw."""
        with self.I.accumulate():
            for part, pairs in zip(parts, drawn, strict=True):
                z_tilde, logvar = self._posterior(part, pairs)
                z_leaf = z_tilde.detach().requires_grad_()
                loss, _, _ = self._reconstruct(part, z_leaf)
                (g_r,) = torch.autograd.grad(loss, z_leaf)
                self._inference_backward(part, z_tilde, logvar, g_r, record)
        self.I.step(rates.lr, rates.ema_decay)

    def _generator_turn(self, parts: list[Batch], drawn: list[Pairs], rates: Rates, record: Record) -> None:
        """theta alone, at the new energy and a posterior drawn again from the new inference model."""
        with self.G.accumulate():
            for part, pairs in zip(parts, drawn, strict=True):
                with torch.no_grad():
                    z_tilde, _ = self._infer(part)
                loss, R, x_hat = self._reconstruct(part, z_tilde)
                self._generator_backward(part, self._synthesis(part, pairs), loss, R, x_hat, record)
        self.G.step(rates.lr, rates.ema_decay)

    def _joint_turn(self, parts: list[Batch], drawn: list[Pairs], rates: Rates, record: Record) -> None:
        """phi and theta from one point: one backward of R gives theta's gradient and g_R = kappa dR/dz_tilde."""
        with self.G.accumulate(), self.I.accumulate():
            for part, pairs in zip(parts, drawn, strict=True):
                z_tilde, logvar = self._posterior(part, pairs)
                z_leaf = z_tilde.detach().requires_grad_()
                loss, R, x_hat = self._reconstruct(part, z_leaf)
                self._generator_backward(part, self._synthesis(part, pairs), loss, R, x_hat, record)
                self._inference_backward(part, z_tilde, logvar, z_leaf.grad / record.share, record)
        self.I.step(rates.lr, rates.ema_decay)
        self.G.step(rates.lr, rates.ema_decay)

    # -------------------------------------------------------------------------------------------- what the turns are made of

    def _infer(self, part: Batch) -> tuple[Tensor, Tensor]:
        """z_tilde ~ q(z | x), reparametrised, and its log-variance."""
        mu, logvar = self.I(part.x, part.alpha)
        logvar = soft_clamp(logvar, self.config.logvar_min, self.config.logvar_max)
        return mu + (0.5 * logvar).exp() * part.eps, logvar

    def _posterior(self, part: Batch, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """alpha's draw with its graph, made again where that was not kept."""
        return (pairs.z_tilde, pairs.logvar) if pairs.z_tilde.requires_grad else self._infer(part)

    def _synthesis(self, part: Batch, pairs: Pairs) -> Tensor:
        return pairs.x_tilde if pairs.x_tilde.requires_grad else self.G(part.z, part.alpha)

    def _reconstruct(self, part: Batch, z_tilde: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(kappa R + range term of x_hat, R, x_hat)."""
        x_hat = self.G(z_tilde, part.alpha)
        R = residual(x_hat, part.x, self.config.reconstruct_box).square().mean()
        return self.kappa * R + self.config.range * overshoot(x_hat), R, x_hat

    def _energy_backward(self, part: Batch, pairs: Pairs, due: bool, record: Record) -> None:
        config, B = self.config, len(part.x)
        x, z = torch.cat([part.x, pairs.x_tilde.detach()]), torch.cat([pairs.z_tilde.detach(), part.z])
        u = self.U(x, z, part.alpha)
        real, fake = u[:B], u[B:]
        loss = real.mean() - fake.mean() + config.lambda_u * (real.square().mean() + fake.square().mean())
        self.U.backward(record.share * loss)
        if due and (config.r1 or config.r1_z):
            x, z = x.requires_grad_(), z.requires_grad_()
            g_x, g_z = torch.autograd.grad(self.U(x, z, part.alpha).sum(), (x, z), create_graph=True)
            # the mean over real pairs plus that over sampled ones
            penalty = 0.5 * (self.gamma * g_x.float().square().sum() + config.r1_z * g_z.float().square().sum()) / B
            self.U.backward(record.share * config.r1_every * penalty)
            record.add(r1=penalty)
        record.add(
            energy_real=real.mean(),
            energy_fake=fake.mean(),
            energy_gap=fake.mean() - real.mean(),
            energy_size=u.abs().mean(),
            loss_energy=loss,
        )

    def _inference_backward(self, part: Batch, z_tilde: Tensor, logvar: Tensor, g_r: Tensor, record: Record) -> None:
        """L_phi into the inference model; `g_r` is what the reconstruction says to z_tilde."""
        z_leaf = z_tilde.detach().requires_grad_()
        (g_u,) = torch.autograd.grad(self.U(part.x, z_leaf, part.alpha).mean(), z_leaf)
        prior = 0.5 * z_tilde.square().mean()
        loss = (z_tilde * (g_r + self.sign * g_u)).sum() + self.beta * prior
        if self.config.inference_loss == "eq17":
            loss = loss - self.beta * logvar.mean()  # 2 log q of the draw itself: -logvar - eps^2 - log 2 pi
        self.I.backward(record.share * loss)
        force, pull = (g.norm(dim=1).mean() for g in (g_u, g_r))
        record.add(prior=prior, logvar=logvar.mean(), energy_slope_z=force * len(part.x))
        if self.kappa:  # without the pull there is no ratio
            record.add(rho_z=force / pull)

    def _generator_backward(self, part: Batch, x_tilde: Tensor, loss: Tensor, R: Tensor, x_hat: Tensor, record: Record) -> None:
        """L_theta into the generator; `loss` is the reconstruction's part."""
        leaf = x_tilde.detach().requires_grad_()
        (g_u,) = torch.autograd.grad(self.U(leaf, part.z, part.alpha).mean(), leaf)
        self.G.backward(record.share * (loss + (x_tilde * g_u).sum() + self.config.range * overshoot(x_tilde)))
        # slope a sample; rho = |dU/dx_tilde| / |d kappa R/dx_hat|
        force = g_u.flatten(1).norm(dim=1).mean() * len(part.x)
        record.add(R=R, energy_slope=force, **diversity(part.x, x_tilde))
        if self.kappa:
            record.add(rho=force / reconstruction_pull(x_hat, part.x, self.config.reconstruct_box, self.kappa))


def _split(batch: Batch, micro_batch: int) -> list[Batch]:
    size = micro_batch or len(batch.x)
    pieces = zip(*(t.split(size) for t in (batch.x, batch.z, batch.eps)), strict=True)
    return [Batch(*piece, alpha=batch.alpha) for piece in pieces]
