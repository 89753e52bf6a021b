"""Samples of a bundle, batch by batch: latents, truncation, refinement by the energy, pictures and their energies."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hires.sampling.choosing import truncate
from hires.sampling.hires_bundle import Bundle, pictures_at_once
from hires.sampling.langevin import LangevinConfig, langevin, settings

NO_REFINEMENT = LangevinConfig()


@dataclass
class Drawn:
    """A batch of samples, on the bundle's device; energies, where asked for, are those of the clamped pictures, as they are seen."""

    seeds: list[int]
    pictures: Tensor  # (B, C, r, r) in [-1, 1]
    energies: Tensor | None  # (B,)
    before: Tensor | None  # (B,), without refinement: the same as `energies` where there is none


@torch.no_grad()
def draw(
    bundle: Bundle, seeds: list[int], truncation: float = 1.0, refine: LangevinConfig = NO_REFINEMENT, energies: bool = True
) -> Iterator[Drawn]:
    """The pictures of `seeds`, in order, as many at a time as memory likes; a seed is the same picture in any list, up to rounding.

    `refine.space=pictures` moves pixels down U(x) from x = G(psi w); `latents` moves w, drawn from N(0, I), down U(G(psi w)) + |w|^2 / 2,
    the prior tilted by the energy, so that every picture remains one of the generator's. Energies, which take as long as pictures, are
    left out where `energies` is false and nothing is refined. Raises HiresError as `langevin` does.
    """

    def generate(w: Tensor) -> Tensor:
        return bundle.generator(truncate(w, truncation)).clamp(-1, 1)

    def tilted(w: Tensor) -> Tensor:
        return bundle.energy(generate(w)) + w.square().sum(1) / 2

    at_once, (s, noise) = pictures_at_once(bundle.resolution), settings(refine, bundle.resolution)
    for part in [seeds[i : i + at_once] for i in range(0, len(seeds), at_once)]:
        w = bundle.latents(part)
        pictures = generate(w)
        after = before = bundle.energy(pictures) if energies or refine.steps else None
        if refine.steps:
            if refine.space == "latents":
                pictures = generate(langevin(tilted, w, part, refine.steps, s, noise))
            else:
                pictures = langevin(bundle.energy, pictures, part, refine.steps, s, noise, bound=1.0)
            after = bundle.energy(pictures)
        yield Drawn(part, pictures, after, before)
