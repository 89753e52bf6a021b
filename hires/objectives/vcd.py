"""Variational contrastive divergence (Zhai et al. 2016, §5): VGAN whose generator is a transition operator, from an image to the next.

The even rows of the batch are images x for the energy, the odd ones are images c to begin from (the paper's two halves; rows, so that
they are the same on every world). With a = I(c), a_mix = a with each dimension replaced by N(0, 1) with probability 1/2
(hires.networks.transition has why that is the paper's mixing), c_hat = G(a), x_tilde = G(a_mix):

    energy     L_alpha = E U(x) - E U(x_tilde) - H~(x) + lambda_s (…)                       as in hires.objectives.vgan
    operator   L = rho (E U(x_tilde) - H~(x_tilde)) + (1 - rho) R(c, c_hat) + range term    for generator and inference model alike

R is the mean squared error on [-1, 1] over pixels and batch, U and H~ are means over experts. The paper's code averages cross entropies of
pixels in [0, 1] and sums over experts: objective=vcd_published, where rho is the paper's. With means over K experts the paper's rho is ours
where rho / (1 - rho) is K times as large (docs/reference/vgan.md). The published round steps the operator first, then the energy on new
transitions; ours begins with the energy, and is the same game half a round later. The operator's halves are players of their own; the
encoder gets the gradient with respect to a as a tensor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from hires.ground.ranges import setting
from hires.networks import NetworkConfig, batch_norm, p3
from hires.networks.transition import Decoder, Encoder, markov_chain, mix
from hires.objectives import vgan
from hires.objectives.base import Draw, Pictures, Player, Rates, Record, fakes, reconstructions
from hires.objectives.terms import diversity, overshoot

PLAYERS = ("generator", "energy", "inference")
DARKEST = 1e-6  # a reconstruction's pixels, in [0, 1], stay as far from 0 and 1 in a cross entropy: there its gradient is lost in rounding
CHAINS, STEPS, EVERY = 8, 40, 4  # of the grid of chains: rows, transitions, and transitions from one picture to the next


@dataclass
class Config(vgan.Config):
    """VGAN's settings and the weight of the energy against the reconstruction."""

    name: str = "vcd"
    rho: float = setting(0.2, at_least=0, at_most=1)  # 1: no reconstruction, 0: an autoencoder
    reconstruction: str = setting("mse", among=("mse", "bce"))  # R: of squares, or cross entropies of pixels in [0, 1] as published

    def players(self) -> tuple[str, ...]:
        return PLAYERS  # the generator decodes, the inference model encodes

    def together(self) -> tuple[tuple[str, ...], ...]:
        return (("energy",), ("generator", "inference"))

    def fullest(self, kept: dict[str, int], whole: bool) -> int:
        g, u, i = (kept[name] for name in PLAYERS)  # every other image is encoded and decoded twice
        return max((g + i // 2 if whole else 0) + u, g + i // 2 + u // 2)


@dataclass
class Batch:
    """What one rank needs for a round: real images x and images c to begin from (B / 2, C, r, r), faded; coins and noise (B / 2, d)."""

    x: Tensor
    c: Tensor
    mixing: list[tuple[Tensor, Tensor]]  # one pair for each of the operator's steps
    alpha: float = 1.0


class Objective(vgan.Objective):
    """One round of the game on three players; see the module's text for the losses."""

    Settings = Config
    LOSSES = {
        "energy": vgan.Objective.LOSSES["energy"],
        "generator": "ρ (E U(x̃) − H̃(x̃)) + (1 − ρ) R(c, ĉ) + range",
        "inference": "ρ (E U(x̃) − H̃(x̃)) + (1 − ρ) R(c, ĉ) + range",
    }
    ROWS = 2
    TAKES = {"generator": "z", "energy": "x", "inference": "x"}
    TERMS = {**vgan.Objective.TERMS, "generator": (*vgan.Objective.TERMS["generator"], "R"), "inference": ("code",)}
    LINE = {**vgan.Objective.LINE, "R": "R"}
    PRIOR_CODES = False

    def __init__(self, config: Config, latent: int, players: Mapping[str, Player]):
        super().__init__(config, latent, players)
        self.config: Config = config
        self.I = players["inference"]

    @staticmethod
    def network(config: Config, shape: NetworkConfig, player: str, resolution: int, fading: bool) -> nn.Module:
        if player == "energy":
            return vgan.Objective.network(config, shape, player, resolution, fading)
        if shape.kind == "p3":
            return (p3.Decoder if player == "generator" else p3.Encoder)(shape, resolution, fading)
        return (Decoder if player == "generator" else Encoder)(shape, resolution, fading)

    @staticmethod
    def gives(config: Config, networks: Mapping[str, nn.Module], alpha: float) -> dict[str, Callable]:
        G, I = networks["generator"], networks["inference"]  # noqa: E741 - the papers' name

        def transition(x: Tensor, noise: torch.Generator) -> Tensor:
            with batch_norm.of_the_batch(I, G):
                return markov_chain(I, G, x, 1, noise, alpha)[:, 1].cpu()

        def reproduce(x: Tensor) -> Tensor:
            with batch_norm.of_the_batch(I, G):
                return G(I(x, alpha)[0], alpha).cpu()

        return {"transition": transition, "reproduce": reproduce}

    def batch(self, x: Tensor, alpha: float, draw: Draw, latent: int) -> Batch:
        steps = range(self.config.generator_steps)
        mixing = [(draw(f"coin{k or ''}", latent)[1::2], draw(f"mixing{k or ''}", latent)[1::2]) for k in steps]
        return Batch(x[0::2], x[1::2], mixing, alpha)

    def round(self, batch: Batch, rates: Rates, resolution: int, due: bool, micro_batch: int = 0) -> dict[str, Tensor]:
        """Update the energy once, then the operator `generator_steps` times."""
        size = micro_batch // 2 or len(batch.x)
        x, c = batch.x.split(size), batch.c.split(size)
        mixing = [list(zip(coin.split(size), noise.split(size), strict=True)) for coin, noise in batch.mixing]
        with Record(1 / len(x)) as record:
            with torch.set_grad_enabled(len(x) == 1):  # its graphs wait for the operator's backward when they fit, else they are made again
                moves = [_Move(self, *each, batch.alpha) for each in zip(c, mixing[0], strict=True)]
            self.energy_turn(x, [move.x_tilde.detach() for move in moves], batch.alpha, rates, record)
            self._operator_turn(c, mixing[0], x, batch.alpha, rates, record, moves if len(x) == 1 else None)
            for each in mixing[1:]:
                self._operator_turn(c, each, x, batch.alpha, rates)
        return record.means

    def pictures(self, networks: dict[str, nn.Module], x: Tensor, z: Tensor, alpha: float) -> Pictures:
        """Codes of noise decoded, reconstructions, and `chains`, a row each, from their first picture on."""
        G, I = networks["generator"], networks["inference"]  # noqa: E741 - the papers' name
        with batch_norm.of_the_batch(I, G):
            chains = markov_chain(I, G, x, STEPS, torch.Generator().manual_seed(0), alpha)[:CHAINS, ::EVERY]
        return fakes(G, z, alpha) | reconstructions(G, I, x, alpha) | {"chains": (chains.flatten(0, 1), chains.shape[1])}

    def distance(self, c_hat: Tensor, c: Tensor) -> Tensor:
        """R of reconstructions and pictures (B, C, r, r) in [-1, 1]."""
        if self.config.reconstruction == "mse":
            return (c_hat - c).square().mean()
        p = ((c_hat + 1) / 2).clamp(DARKEST, 1 - DARKEST)
        return F.binary_cross_entropy(p, (c + 1) / 2)

    # -------------------------------------------------------------------------------------------- turns

    def _operator_turn(
        self,
        c: list[Tensor],
        mixing: list[tuple[Tensor, Tensor]],
        x: list[Tensor],
        alpha: float,
        rates: Rates,
        record: Record | None = None,
        kept: list["_Move"] | None = None,
    ) -> None:
        """L into decoder and encoder in micro-batches, and their step; `kept` are moves with their graphs."""
        rho = self.config.rho
        starts = list(zip(c, mixing, strict=True))
        mean = self._mean_before(starts, alpha, lambda start: _Move(self, *start, alpha=alpha).x_tilde)
        with self.G.accumulate(), self.I.accumulate():
            for i, start in enumerate(starts):
                move = kept[i] if kept else _Move(self, *start, alpha=alpha)
                g = self.force(x[i], move.x_tilde, alpha, mean, record)
                R = self.distance(move.c_hat, c[i])
                out_of_range = self.config.range * (overshoot(move.x_tilde) + overshoot(move.c_hat))
                self.G.backward((rho * (move.x_tilde * g).sum() + (1 - rho) * R + out_of_range) / len(c))
                self.I.backward((move.a * move.leaf.grad).sum())
                if record is not None:
                    record.add(R=R, code=move.a.square().mean(), **diversity(x[i], move.x_tilde))
        self.I.step(rates.lr, rates.ema_decay)
        self.G.step(rates.lr, rates.ema_decay)


class _Move:
    """A transition of images c with its graphs: the encoder's ends at a, the decoder's begins at `leaf`, a copy of a."""

    def __init__(self, game: Objective, c: Tensor, mixing: tuple[Tensor, Tensor], alpha: float):
        self.a = game.I(c, alpha)[0]
        self.leaf = self.a.detach().requires_grad_(torch.is_grad_enabled())
        # two passes: batch norm is to see the codes of pictures and the mixed ones each by themselves
        self.c_hat, self.x_tilde = game.G(self.leaf, alpha), game.G(mix(self.leaf, *mixing), alpha)
