"""Samples of a bundle, batch by batch: latents, truncation, refinement by the energy, pictures and their energies."""

from collections.abc import Iterator
from dataclasses import dataclass
import math

import torch
from torch import Tensor

from hires.bundle.hires_bundle import Bundle, pictures_at_once
from hires.errors import HiresError
from hires.sampling.choosing import truncate
from hires.sampling.refining import LangevinConfig, langevin, settings

NO_REFINEMENT = LangevinConfig()


@dataclass
class Drawn:
    """A batch of samples, on the bundle's device; energies, where asked for, are those of the clamped pictures, as they are seen."""

    seeds: list[int]
    pictures: Tensor  # (B, C, r, r) in [-1, 1]
    energies: Tensor | None  # (B,)
    before: Tensor | None  # (B,), without refinement: the same as `energies` where there is none


def check(
    bundle: Bundle, truncation: float = 1.0, refine: LangevinConfig = NO_REFINEMENT, energies: bool = False, prior: str = ""
) -> None:
    """Raise HiresError for what this bundle cannot do."""
    try:
        bundle.place(torch.empty(0, bundle.latent, device=bundle.device), prior)
    except ValueError as error:
        raise HiresError(str(error)) from error
    if bundle.config.get("chains"):  # its pictures are no function of a latent
        for name, value, only in (
            ("truncation", truncation, 1.0),
            ("prior", prior or "standard", "standard"),
            ("langevin.space", refine.space, "pictures"),
        ):
            if value != only:
                raise HiresError(f"{name}={value}: the sampler draws by Langevin steps on pictures; wanted {name}={only}")
    if bundle.energy is None and (refine.steps or energies):
        raise HiresError(f"{'langevin' if refine.steps else 'top_by'}: the sampler has no energy; leave it out")


@torch.no_grad()
def draw(
    bundle: Bundle,
    seeds: list[int],
    truncation: float = 1.0,
    refine: LangevinConfig = NO_REFINEMENT,
    energies: bool = True,
    prior: str = "",
) -> Iterator[Drawn]:
    """The pictures of `seeds`, in order, as many at a time as memory likes; a seed is the same picture in any list, up to rounding.

    `refine.space=pictures` moves pixels down U(x) from x = G(psi w); `latents` moves w, drawn from N(0, I), down a U(G(psi w)) + |w|^2 / 2,
    the prior tilted by the energy, so that every picture remains one of the generator's; a is `refine.weight`, or the weight of U in the
    training of the bundle's generator. psi w becomes a latent by Bundle.place, which puts it among the codes where the bundle holds their
    moments. A bundle with Langevin chains of its own draws by these, x is where they end. Energies, which take as long as pictures, are
    left out where `energies` is false and nothing is refined, or there is no energy.

    Raises HiresError as `check` and `langevin` do.
    """

    def generate(w: Tensor) -> Tensor:
        return bundle.generator(bundle.place(truncate(w, truncation), prior)).clamp(-1, 1)

    def tilted(w: Tensor) -> Tensor:
        return (refine.weight or _trained_weight(bundle)) * bundle.energy(generate(w)) + w.square().sum(1) / 2

    check(bundle, truncation, refine, prior=prior)
    energies = energies and bundle.energy is not None
    at_once, (s, noise) = pictures_at_once(bundle.resolution), settings(refine, bundle.resolution)
    for part in [seeds[i : i + at_once] for i in range(0, len(seeds), at_once)]:
        w = bundle.latents(part, "standard")
        pictures = bundle.sample(part) if bundle.config.get("chains") else generate(w)
        after = before = bundle.energy(pictures) if energies or refine.steps else None
        if refine.steps:
            if refine.space == "latents":
                pictures = generate(langevin(tilted, w, part, refine.steps, s, noise))
            else:
                pictures = langevin(bundle.energy, pictures, part, refine.steps, s, noise, bound=1.0)
            after = bundle.energy(pictures)
        yield Drawn(part, pictures, after, before)


def _trained_weight(bundle: Bundle) -> float:
    """The weight of U in the loss of the bundle's generator, 1 where an older bundle does not tell."""
    found = bundle.config.get("info", {}).get("energy_weight", 1.0)
    if not isinstance(found, float) or not 0 <= found < math.inf:
        raise HiresError(f"the sampler's config.json: info.energy_weight={found!r}, wanted a number from 0 up; or give langevin.weight")
    return found
