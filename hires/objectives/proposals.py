"""A generator that proposes what Langevin refines: the other place, beside a replay buffer, where an energy's samples can begin.

    x_0 = G(z),   x_q = x_0 after a few Langevin steps,   L_psi = E (G(z) - x_q)^2

x_q are the samples of every loss of the energy; G learns to begin where the chains end (as cooperative learning does: Xie et al. 2018).
None of the project's papers has this; P4 names it as future work.
"""

import torch
from torch import Tensor, nn

from hires.objectives.base import AT_ONCE, Draw, Pictures, Rates, Record, fakes
from hires.objectives.replay import ChainsConfig, refine, repeated


class Proposals:
    """The negatives of a system with a generator: its pictures, refined. Nothing is kept from step to step."""

    def __init__(self, config: ChainsConfig, generator, latent: int):
        self.config, self.G, self.latent = config, generator, latent

    def go_on(
        self, energy, x: Tensor, alpha: float, draw: Draw, micro_batch: int = 0, labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples (b, C, r, r), as many as the rank's real images x, and terms of the chains; `energy` and `labels` are for `refine`."""
        self.z = draw("latent", self.latent)
        with torch.no_grad():
            begin = torch.cat([self.G(z, alpha) for z in self.z.split(micro_batch or len(x))])
        return refine(self.config, energy, begin, draw, micro_batch, labels)

    def learn(self, x_q: Tensor, alpha: float, rates: Rates, micro_batch: int = 0) -> dict[str, Tensor]:
        """Draw the generator's pictures towards x_q, where their chains ended; returns its loss."""
        size = micro_batch or len(x_q)
        record = Record(size / len(x_q))
        with self.G.accumulate():
            for z, target in zip(self.z.split(size), x_q.split(size), strict=True):
                loss = (self.G(z, alpha) - target).square().mean()
                self.G.backward(record.share * loss)
                record.add(loss_generator=loss)
        self.G.step(rates.lr, rates.ema_decay)
        return record.means

    def pictures(self, networks: dict[str, nn.Module], z: Tensor, alpha: float) -> Pictures:
        """`fakes`, the generator's pictures of latents z, and `refined`, these after the chains, whose noise is then the same each time."""
        drawn, noise = fakes(networks["generator"], z, alpha), repeated(len(z), z.device)
        refined, _ = refine(self.config, lambda x: networks["energy"](x, alpha), drawn["fakes"][0].to(z.device), noise, AT_ONCE)
        return drawn | {"refined": (refined, None)}
