"""The divergence triangle (Han, Nijkamp et al., CVPR 2019): generator, energy-based model and inference model learned together.

With x real (faded while growing), z ~ N(0, I), x_tilde = G(z), (mu, logvar) = I(x), z_tilde = mu + exp(logvar / 2) eps, x_hat = G(z_tilde):

    energy     L_alpha = E U(x) - E U(x_tilde) + lambda_U (E U(x)^2 + E U(x_tilde)^2) [+ gamma / 2 E |dU/dx|^2, every few steps]
    inference  L_phi   = kappa R + beta K + lambda_z N
    generator  L_theta = kappa R + w E U(x_tilde) + lambda_z N [+ range term]

With `contrast=logistic` the energy tells images from fakes as a GAN's discriminator sigmoid(-U) does: softplus(U(x)) and
softplus(-U(x_tilde)) stand for U(x) and -U(x_tilde) in L_alpha, softplus(U(x_tilde)) for U(x_tilde) in L_theta, so what it is sure of
weighs little.

The means over x_tilde in L_alpha are over all that the energy is shown as fakes: samples, and by default as many corrupted real images
(`energy_sees`; hires/objectives/corruption.py), which are not in the paper. w (`energy_weight`) is the energy's temperature: the L2 and
the penalty hold its gap to a few units where the theory's is hundreds of nats. R = mse(x_hat, x) of box means (`reconstruct_box`), K =
KL(q(z | x) || N(0, I)) per dimension, N = -log q(z | x_tilde) per dimension without its constant: means, never sums, so a weight means
the same at every resolution. The players exchange tensors, among them gradients: g_U = dE U/dx_tilde, g_N = lambda_z dN/dx_tilde and g_z
= kappa dR/dz_tilde, never graphs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from hires import networks
from hires.errors import HiresError
from hires.ground.ranges import setting
from hires.networks import NetworkConfig, batch_norm
from hires.objectives import base
from hires.objectives.base import Draw, ObjectiveConfig, Penalised, Player, Rates, Reconstructs, Record
from hires.objectives.corruption import corrupted, size_of
from hires.objectives.terms import BOXES, diversity, kl, nll, overshoot, reconstruction_pull, residual, soft_clamp, squared_slopes

PLAYERS = ("generator", "energy", "inference")
HELD = 0.01  # least divisor of a message that is taken out of the energy's own backward
UPDATES = ("published", "energy_first", "simultaneous")
SEES = ("samples", "samples_and_reconstructions", "samples_and_refined", "samples_and_corrupted", "samples_reconstructions_and_corrupted")


@dataclass
class Config(Reconstructs, Penalised, ObjectiveConfig):
    """Weights of the terms and the order of the updates; docs/reference/stability.md says what to turn when."""

    name: str = "divergence_triangle"
    updates: str = setting("energy_first", among=UPDATES)  # published | energy_first | simultaneous
    generator_steps: int = setting(1, at_least=1)  # theta steps a round
    kappa_pixel: float = setting(3.0, at_least=0, below=math.inf)  # kappa(r) = min(kappa_pixel r^2, kappa_max)
    # the published code's sum of squares is 3072 at 32x32, which starves G of the energy
    kappa_max: float = setting(256.0, at_least=0, below=math.inf)
    beta: float = setting(0.05, at_least=0, below=math.inf)  # weight of K per latent dimension: beta d K, so d=64 gives 3.2
    lambda_z: float = setting(1.0, at_least=0, below=math.inf)  # weight of the sleep term N
    lambda_u: float = setting(0.1, at_least=0, below=math.inf)  # L2 on the energy
    # w, of E U(x_tilde) in the generator's loss: rho, the pull's share, goes with it (docs/reference/stability.md)
    energy_weight: float = setting(10.0, at_least=0, below=math.inf)
    logvar_min: float = -8.0  # soft clamp of the log-variance; min >= max turns it off
    logvar_max: float = 4.0
    # identity (bounded by lambda_u) | softplus (spectral normalisation) | experts (bounded: docs/reference/vgan.md)
    energy: str = setting("identity", among=("identity", "softplus", "experts"))
    # gamma at 32x32; scales with (r / 32)^2 from 16x16 up, which keeps the energy's numbers equal; 0 = off
    r1: float = setting(1.0, at_least=0, below=math.inf)
    r1_every: int = setting(8, at_least=1)  # steps from one penalty to the next; it weighs as many times more
    # real | both: penalise the field at the samples too, which keeps G's steps on it steady
    r1_on: str = setting("both", among=("real", "both"))
    # R compares means of boxes, in pixels a side (never below 8x8): finer detail is the energy's alone; 1: every pixel
    reconstruct_box: int = setting(4, among=BOXES, wanted="a power of two, 1 for every pixel")
    # weight of the mean of max(|x| - 1, 0)^2 over samples and reconstructions: a linear output has no other bound
    range: float = setting(768.0, at_least=0, below=math.inf)
    # linear: the paper's difference of mean energies | logistic: a classifier's loss, with -U as the logit
    contrast: str = setting("linear", among=("linear", "logistic"))
    # the energy's fakes: samples, and reconstructions, refined samples, corrupted real images (docs/reference/stability.md)
    energy_sees: str = setting("samples_and_corrupted", among=SEES)
    # of samples_and_refined: x <- clamp(x - refine_size r^2 dU/dx, -1, 1) from the samples, without noise
    refine_steps: int = setting(3, at_least=1)
    refine_size: float = setting(0.005, at_least=0, below=math.inf)

    def players(self) -> tuple[str, ...]:
        return PLAYERS

    def together(self) -> tuple[tuple[str, ...], ...]:
        return {
            "published": (("energy",), ("inference",), ("generator",)),
            "energy_first": (("energy",), ("inference", "generator")),
            "simultaneous": (PLAYERS,),
        }[self.updates]

    def fullest(self, kept: dict[str, int], whole: bool) -> int:
        # G's synthesis waits (where the batch is whole; else it is made again) while the energy sees x and x_tilde; or I sees both and G
        # reconstructs; a pass whose gradient is penalised keeps nearly twice as much
        g, u, i = (kept[name] for name in PLAYERS)
        seen = 2 + sum(kind in self.energy_sees for kind in ("reconstructions", "refined", "corrupted"))
        penalised = 0 if not self.r1 else 1 if self.r1_on == "real" else 2
        waiting = 0 if not whole else g + g + 2 * i if "reconstructions" in self.energy_sees else g
        return max(waiting + max(seen, 2 * penalised) * u, g + g + 2 * i)

    def weights_at(self, resolution: int) -> dict[str, float]:
        return {"κ": self.kappa(resolution), "γ": self.gamma(resolution)}


@dataclass
class Batch:
    """What one rank needs for a round: real images (faded) and noise, all (B, ...) on the device; extra noise for more generator steps."""

    x: Tensor
    z: Tensor
    eps: Tensor
    extra: list[tuple[Tensor, Tensor]]
    alpha: float = 1.0
    corrupted: Tensor | None = None  # real images that the energy is shown as fakes, as many as x


class Inferred(NamedTuple):
    """Posteriors of real images and of samples (a leaf), codes of the real images, a leaf of these, and G's images of them."""

    leaf: Tensor
    mu: Tensor
    logvar: Tensor
    mu_f: Tensor
    logvar_f: Tensor
    z_tilde: Tensor
    z_leaf: Tensor
    x_hat: Tensor


class Objective(base.Objective):
    """One round of the game on three players; see the module's text for the losses."""

    Settings = Config
    LOSSES = {
        "energy": "E U(x) − E U(x̃) (logistic: E softplus(U(x)) + E softplus(−U(x̃))) + λ_U (E U(x)² + E U(x̃)²) + γ/2 E |∂U/∂x|²",
        "inference": "κ R(x, x̂) + β K(q(z|x) ‖ p(z)) + λ_z N(z | x̃)",
        "generator": "κ R(x, x̂) + w E U(x̃) (logistic: w E softplus(U(x̃))) + λ_z N(z | x̃) + range",
    }
    TAKES = {"generator": "z", "energy": "x", "inference": "x"}
    SHAPED_BY = ("energy",)  # settings that decide what the networks are
    TERMS = {
        "energy": ("energy_real", "energy_fake", "energy_gap", "energy_size", "energy_slope", "loss_energy", "r1", "divisor_held"),
        "inference": ("K", "N", "logvar"),
        "generator": ("R", "rho", "diversity"),
    }
    LINE = {"E(real)": "energy_real", "E(fake)": "energy_fake", "ρ": "rho", "R": "R", "K": "K", "N": "N", "div": "diversity"}
    SCALING = True
    LARGE = ("corruption",)

    def __init__(self, config: Config, latent: int, players: Mapping[str, Player]):
        self.config = config
        self.G, self.U, self.I = (players[name] for name in PLAYERS)
        self.beta, self.every, self.weight = config.beta * latent, config.r1_every, config.energy_weight
        self.logistic, self.reconstructs = config.contrast == "logistic", "reconstructions" in config.energy_sees

    @staticmethod
    def network(config: Config, shape: NetworkConfig, player: str, resolution: int, fading: bool) -> nn.Module:
        return networks.build(shape, player, resolution, fading, config.energy)

    @staticmethod
    def check(config: Config, shape: NetworkConfig, zero_stage: int) -> None:
        if config.energy == "experts" and shape.kind != "growing":
            found = f"objective.energy=experts with network.kind={shape.kind}"
            raise HiresError(f"{found}: it is built for growing networks, network=base or slim")
        if "reconstructions" in config.energy_sees and config.updates == "published":
            raise HiresError(f"objective.energy_sees={config.energy_sees}: wanted updates=energy_first or simultaneous")
        if config.r1 and shape.kind == "dcgan64":
            base.require_single(f"objective.r1={config.r1}", shape)
        if zero_stage == 3 and config.r1:
            raise HiresError("objective.r1 with zero.stage=3: its second derivative crashes in ZeRO-3; set objective.r1=0 or zero.stage=2")
        if zero_stage == 3 and config.energy == "softplus":
            raise HiresError("objective.energy=softplus with zero.stage=3: spectral normalisation needs whole weights; set zero.stage=2")

    def batch(self, x: Tensor, alpha: float, draw: Draw, latent: int) -> Batch:
        extra = [(draw(f"latent{k}", latent), draw(f"posterior{k}", latent)) for k in range(1, self.config.generator_steps)]
        made = corrupted(x, draw("corruption", size_of(x))) if "corrupted" in self.config.energy_sees else None
        return Batch(x, draw("latent", latent), draw("posterior", latent), extra, alpha, made)

    def round(self, batch: Batch, rates: Rates, resolution: int, due: bool, micro_batch: int = 0) -> dict[str, Tensor]:
        """Update the three players once, the generator `generator_steps` times; the gradient penalty is what may be `due`."""
        self.kappa, self.gamma = self.config.kappa(resolution), self.config.gamma(resolution)
        parts = _split(batch, micro_batch)
        order = self._published if self.config.updates == "published" else self._messages
        with Record(1 / len(parts)) as record:
            order(parts, rates, due, record)
        for z, eps in batch.extra:
            self._generator_step(_split(Batch(batch.x, z, eps, [], batch.alpha), micro_batch), rates)
        return record.means

    # -------------------------------------------------------------------------------------------- the three orders

    def _messages(self, parts: list[Batch], rates: Rates, penalise: bool, record: Record) -> None:
        """`energy_first` (20 forward passes a round, 23 with corrupted images) and `simultaneous` (18, 21): I and G step from one point.

        Reconstructions among the fakes add three, and two more to `energy_first`. They are made once, before the energy steps, where the
        batch is computed at once, and again after it in micro-batches.
        """
        simultaneous = self.config.updates == "simultaneous"
        share = 1 / len(parts)
        # graphs of the syntheses are kept for the generator's backward when they fit at once, else made again
        synthesis = [self._synthesise(p, keep=len(parts) == 1) for p in parts]
        g_real = [None] * len(parts)
        kept = [self._inferred(parts[0], synthesis[0])] if self.reconstructs and len(parts) == 1 else [None] * len(parts)
        with self.U.accumulate():
            for i, part in enumerate(parts):
                fakes = self._fakes(part, synthesis[i], kept[i])
                g_real[i] = self._energy_backward(part, fakes, penalise, share, record, want_gradient=simultaneous)
        if not simultaneous:
            self.U.step(rates.energy_lr, rates.ema_decay)
        with self.G.accumulate(), self.I.accumulate():
            for i, part in enumerate(parts):
                x_tilde = synthesis[i] if synthesis[i].requires_grad else self.G(part.z, part.alpha)
                self._inference_and_generator(part, x_tilde, kept[i] or self._inferred(part, x_tilde), g_real[i], share, record)
        if simultaneous:
            self.U.step(rates.energy_lr, rates.ema_decay)
        self.I.step(rates.lr, rates.ema_decay)
        self.G.step(rates.lr, rates.ema_decay)

    def _published(self, parts: list[Batch], rates: Rates, penalise: bool, record: Record) -> None:
        """P1's loop: alpha, then phi, then theta, each seeing the others already updated (25 forward passes, or 28)."""
        share = 1 / len(parts)
        synthesis = [self._synthesise(p, keep=len(parts) == 1) for p in parts]
        with self.U.accumulate():
            for part, x_tilde in zip(parts, synthesis, strict=True):
                self._energy_backward(part, self._fakes(part, x_tilde, None), penalise, share, record, want_gradient=False)
        self.U.step(rates.energy_lr, rates.ema_decay)
        with self.I.accumulate():
            for part, x_tilde in zip(parts, synthesis, strict=True):
                mu, logvar, mu_f, logvar_f = self._infer(part, x_tilde.detach())
                z_tilde = mu + (0.5 * logvar).exp() * part.eps
                leaf = z_tilde.detach().requires_grad_()
                x_hat = self.G(leaf, part.alpha)
                R = residual(x_hat, part.x, self.config.reconstruct_box).square().mean()
                (g_z,) = torch.autograd.grad(self.kappa * R + self.config.range * overshoot(x_hat), leaf)
                K, N = kl(mu, logvar), nll(part.z, mu_f, logvar_f)
                self.I.backward(share * ((z_tilde * g_z).sum() + self.beta * K + self.config.lambda_z * N))
                record.add(K=K, N=N, logvar=logvar.mean())
        self.I.step(rates.lr, rates.ema_decay)
        self._generator_step(parts, rates, synthesis, record)

    def _generator_step(
        self, parts: list[Batch], rates: Rates, synthesis: list[Tensor] | None = None, record: Record | None = None
    ) -> None:
        """A theta step alone, energy and inference model as they stand: reconstruction from a fresh posterior, U and N of the samples."""
        share = 1 / len(parts)
        with self.G.accumulate():
            for i, part in enumerate(parts):
                with torch.no_grad():
                    mu, logvar = self._clamped(self.I(part.x, part.alpha))
                    z_tilde = mu + (0.5 * logvar).exp() * part.eps
                x_hat = self.G(z_tilde, part.alpha)
                R = residual(x_hat, part.x, self.config.reconstruct_box).square().mean()
                kept = synthesis is not None and synthesis[i].requires_grad
                x_tilde = synthesis[i] if kept else self.G(part.z, part.alpha)
                leaf = x_tilde.detach().requires_grad_()
                (g_u,) = torch.autograd.grad(self._lowered(self.U(leaf, part.alpha)).mean(), leaf)
                N = nll(part.z, *self._clamped(self.I(leaf, part.alpha)))
                (g_n,) = torch.autograd.grad(self.config.lambda_z * N, leaf)
                # both terms lie in one graph here, so one backward does
                out_of_range = self.config.range * (overshoot(x_hat) + overshoot(x_tilde))
                self.G.backward(share * (self.kappa * R + out_of_range + (x_tilde * (self.weight * g_u + g_n)).sum()))
                if record is not None:
                    self._record_generator(record, part, x_tilde, x_hat, R, g_u)
        self.G.step(rates.lr, rates.ema_decay)

    # -------------------------------------------------------------------------------------------- turns

    def _energies(self, images: Tensor, size: int, alpha: float) -> Tensor:
        """U of images (N, C, r, r) -> (N,): of all at once, or where it has batch norm of a kind at a time, `size` images, as in DCGAN."""
        kinds = images.split(size) if batch_norm.layers(self.U.network) else [images]
        return torch.cat([self.U(kind, alpha) for kind in kinds])

    def _lowered(self, u: Tensor) -> Tensor:
        """What stands for an image's energy u where it is to fall: itself, or -ln of the discriminator's sigmoid(-u)."""
        return F.softplus(u) if self.logistic else u

    def _synthesise(self, part: Batch, keep: bool) -> Tensor:
        with torch.set_grad_enabled(keep):
            return self.G(part.z, part.alpha)

    def _fakes(self, part: Batch, x_tilde: Tensor, inferred: Inferred | None) -> Tensor:
        """What the energy is to raise: samples first, then reconstructions, refined samples, corrupted real images where so configured."""
        fakes = [x_tilde.detach()]
        if self.reconstructs:
            with torch.no_grad():
                fakes.append((inferred or self._inferred(part, fakes[0])).x_hat.detach())
        if self.config.energy_sees == "samples_and_refined":
            fakes.append(self._refined(x_tilde, part.alpha))
        if part.corrupted is not None:
            fakes.append(part.corrupted)
        return torch.cat(fakes)

    def _refined(self, x_tilde: Tensor, alpha: float) -> Tensor:
        """Where a few steps down the energy lead from the samples: what it holds for likelier than they are, if not real, is to rise."""
        x, size = x_tilde.detach(), self.config.refine_size * x_tilde.shape[-1] ** 2
        for _ in range(self.config.refine_steps):
            leaf = x.requires_grad_()
            (slope,) = torch.autograd.grad(self.U(leaf, alpha).sum(), leaf)
            x = (x.detach() - size * slope).clamp(-1, 1)
        return x

    def _energy_backward(
        self, part: Batch, fakes: Tensor, penalise: bool, share: float, record: Record, want_gradient: bool
    ) -> Tensor | None:
        """L_alpha into the energy; with `want_gradient` also g_U, out of the same backward (with batch norm, of one more).

        dL/dx_tilde_i = c_i / B dU/dx_tilde_i with c_i = dL/dU(x_tilde_i) B = -1 + 2 lambda_U U(x_tilde_i), or -sigmoid(-U(x_tilde_i)) in
        place of -1; dividing by c_i gives the generator's message. |c_i| is held at HELD or more (it vanishes where U = 1 / (2 lambda_U));
        how often that binds is recorded.
        """
        config, B = self.config, len(part.x)
        fakes = fakes.requires_grad_(want_gradient)
        u = self._energies(torch.cat([part.x, fakes]), B, part.alpha)
        u_x, u_f = u[:B], u[B:]
        apart = self._lowered(u_x).mean() + (F.softplus(-u_f) if self.logistic else -u_f).mean()
        loss = apart + config.lambda_u * (u_x.square().mean() + u_f.square().mean())
        mixed = want_gradient and bool(batch_norm.layers(self.U.network))
        g_u = torch.autograd.grad(self._lowered(u_f).sum() / B, fakes, retain_graph=True)[0] if mixed else None
        self.U.backward(share * loss)
        if penalise and self.gamma:
            x = part.x if config.r1_on == "real" else torch.cat([part.x, fakes.detach()[:B]])
            x = x.detach().requires_grad_()
            # a mean over reals plus, with both, a mean over samples
            penalty = 0.5 * self.gamma * squared_slopes(self.U(x, part.alpha), x) / B
            self.U.backward(share * config.r1_every * penalty)
            record.add(r1=penalty)
        record.add(
            energy_real=u_x.mean(),
            energy_fake=u_f[:B].mean(),
            energy_gap=u_f[:B].mean() - u_x.mean(),
            energy_size=u.abs().mean(),
            loss_energy=loss,
        )
        if mixed or not want_gradient:
            return g_u
        u_f = u_f.detach()
        c = 2 * config.lambda_u * u_f - (torch.sigmoid(-u_f) if self.logistic else 1)
        held = c.abs() < HELD
        record.add(divisor_held=held.float().mean())
        c = torch.where(held, torch.full_like(c, HELD).copysign(c), c)
        if self.logistic:
            c = c / torch.sigmoid(u_f)
        # the energy's fakes may be more than the samples: their mean is over all of them, the message's over each kind
        return fakes.grad / (share * c[:, None, None, None]) * (len(fakes) // B)

    def _inferred(self, part: Batch, x_tilde: Tensor) -> Inferred:
        """What I makes of the real images and of the samples, and G of its codes."""
        leaf = x_tilde.detach().requires_grad_()
        mu, logvar, mu_f, logvar_f = self._infer(part, leaf)
        z_tilde = mu + (0.5 * logvar).exp() * part.eps
        z_leaf = z_tilde.detach().requires_grad_()
        return Inferred(leaf, mu, logvar, mu_f, logvar_f, z_tilde, z_leaf, self.G(z_leaf, part.alpha))

    def _inference_and_generator(
        self, part: Batch, x_tilde: Tensor, inferred: Inferred, g_u: Tensor | None, share: float, record: Record
    ) -> None:
        """phi and theta from one point: R's backward gives g_z, phi's gives g_N, and theta's second backward takes g_U + g_N."""
        B, x_hat = len(part.x), inferred.x_hat
        R = residual(x_hat, part.x, self.config.reconstruct_box).square().mean()
        if g_u is None:
            seen = torch.cat([x_tilde.detach(), x_hat.detach()]) if self.reconstructs else x_tilde.detach()
            seen = seen.requires_grad_()
            (g_u,) = torch.autograd.grad(self._lowered(self._energies(seen, B, part.alpha)).sum() / B, seen)
        g_samples, g_hat = g_u[:B], g_u[B : 2 * B]  # what is said of refined or corrupted images is not for G
        g_real = self.kappa * R + self.config.range * overshoot(x_hat)
        if self.reconstructs:
            # reconstructions are pulled to low energy too, with half the weight, and so are the samples
            g_real = g_real + 0.5 * self.weight * (x_hat * g_hat).sum()
            g_samples = 0.5 * g_samples
        self.G.backward(share * g_real)
        K, N = kl(inferred.mu, inferred.logvar), nll(part.z, inferred.mu_f, inferred.logvar_f)
        self.I.backward((inferred.z_tilde * inferred.z_leaf.grad).sum() + share * (self.beta * K + self.config.lambda_z * N))
        g_n = inferred.leaf.grad  # = share * lambda_z * dN/dx_tilde
        self.G.backward((x_tilde * (share * self.weight * g_samples + g_n)).sum() + share * self.config.range * overshoot(x_tilde))
        record.add(K=K, N=N, logvar=inferred.logvar.mean())
        self._record_generator(record, part, x_tilde, x_hat, R, g_samples)

    def _infer(self, part: Batch, x_tilde: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Posteriors of the real images and of the samples out of one pass, or of two where I has batch norm."""
        B, both = len(part.x), torch.cat([part.x, x_tilde])
        kinds = both.split(B) if batch_norm.layers(self.I.network) else [both]
        mu, logvar = self._clamped(tuple(map(torch.cat, zip(*(self.I(kind, part.alpha) for kind in kinds), strict=True))))
        return mu[:B], logvar[:B], mu[B:], logvar[B:]

    def _clamped(self, posterior: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        mu, logvar = posterior
        return mu, soft_clamp(logvar, self.config.logvar_min, self.config.logvar_max)

    def _record_generator(self, record: Record, part: Batch, x_tilde: Tensor, x_hat: Tensor, R: Tensor, g_u: Tensor) -> None:
        """R, |dU/dx_tilde| per sample, rho = w |dU/dx_tilde| / |d kappa R/dx_hat| and the spread of the samples over that of the data."""
        force = g_u.flatten(1).norm(dim=1).mean() * len(part.x)
        record.add(R=R, energy_slope=force, **diversity(part.x, x_tilde))
        if self.kappa:  # without the pull there is no ratio
            record.add(rho=self.weight * force / reconstruction_pull(x_hat, part.x, self.config.reconstruct_box, self.kappa))


def _split(batch: Batch, micro_batch: int) -> list[Batch]:
    size = micro_batch or len(batch.x)
    each = [batch.x.split(size), batch.z.split(size), batch.eps.split(size)]
    made = batch.corrupted.split(size) if batch.corrupted is not None else [None] * len(each[0])
    return [Batch(x, z, eps, [], batch.alpha, one) for x, z, eps, one in zip(*each, made, strict=True)]
