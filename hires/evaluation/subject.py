"""What is measured: a run's networks, those of a run in training, or a bundle, as plain functions of fp32 tensors on one device."""

from collections.abc import Callable
import copy
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from hires.bundle.chains import chains_of
from hires.bundle.hires_bundle import Bundle, latents
from hires.ground import noise
from hires.networks import batch_norm, initialise, p2
from hires.networks.pair_energy import PairEnergy
from hires.objectives import system
from hires.objectives.base import ObjectiveConfig

Of = Callable[[Tensor], Tensor]


@dataclass
class Subject:
    """A system at one resolution; a function that it has no network for is None. Images (B, C, r, r) are about [-1, 1]."""

    name: str  # for tables: the run or the bundle
    system: str  # objective.name, empty where a bundle does not tell
    images: int  # seen in training, 0 where it is not known
    resolution: int
    channels: int
    latent: int  # dimensions d of a latent
    alpha: float  # of the fade-in, 1 = stable
    device: torch.device
    generate: Of | None = None  # latents (B, d) -> images, not clamped
    decode: Of | None = None  # codes of pictures (B, d) -> images, not clamped: `generate` but for batch norm's statistics
    encode: Of | None = None  # images -> means of the posterior (B, d)
    posterior: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None  # images -> means and log-variances (B, d)
    energy: Of | None = None  # images -> energies (B,), lower is more like the data; of pairs: U(x, mu(x))
    of_pairs: bool = False  # whether the energy is
    bound: Of | None = None  # images -> minus the evidence bound (B,), in its loss's scale, of objective=vae
    features: Of | None = None  # images -> what the energy's last layer reads (B, F)
    untrained: Of | None = None  # the same of the network as it starts, of a seed of its own
    coded: bool = False  # whether a picture's code stands for a latent, so that latents may come from the Gaussian of the codes
    draw: Callable[[list[int]], Tensor] | None = None  # seeds -> images, not clamped; seed n gives the same image in any list
    transition: Callable[[Tensor, torch.Generator], Tensor] | None = None  # images and a CPU generator -> their next states, on the CPU
    settle: Callable[[Tensor], None] | None = None  # sets batch norm's statistics by training pictures (N, C, r, r), where there is any
    reproduce: Of | None = None  # images -> what a transition that replaces nothing makes of them, on the CPU


LACKS = {  # a function of a Subject, and what it means to a person that it is not there
    "generate": "generator",
    "decode": "generator",
    "encode": "inference model",
    "posterior": "inference model with a variance",
    "energy": "energy of images",
    "features": "features of an energy",
    "draw": "way to draw pictures",
    "transition": "transition operator (objective=vcd has one)",
}


def of_networks(
    networks: dict[str, nn.Module],
    objective: ObjectiveConfig,
    name: str,
    images: int,
    size: tuple[int, int, int],
    alpha: float,
    device: torch.device,
) -> Subject:
    """A subject of averaged networks by player, moved to `device`, in eval mode; `objective`: the settings, `size`: r, channels, d."""
    networks = {player: network.to(device).eval() for player, network in networks.items()}
    G, I, U = (networks.get(player) for player in ("generator", "inference", "energy"))  # noqa: E741 - the papers' name
    decoder = copy.deepcopy(G) if G and batch_norm.layers(G) else G
    subject = Subject(name, objective.name, images, *size, alpha, device)
    if G:
        subject.generate = lambda z: G(z.to(device), alpha)
        subject.decode = lambda z: decoder(z.to(device), alpha)
        subject.draw = lambda seeds: subject.generate(latents(seeds, subject.latent))
        subject.coded = I is not None and system(objective).PRIOR_CODES
    if I:
        subject.posterior = lambda x: I(x.to(device), alpha)
        subject.encode = lambda x: subject.posterior(x)[0]
    if chains := chains_of(objective):
        config = {"chains": chains, "image_channels": subject.channels, "classes": getattr(U, "classes", 0)}
        own = Bundle(config, device, subject.generate, None, lambda x, *y: U(x, alpha, *y), subject.resolution, subject.latent)
        subject.draw = own.sample
    if isinstance(U, PairEnergy | p2.PairEnergy):
        subject.energy, subject.of_pairs = lambda x: U(x.to(device), subject.encode(x), alpha), True
    elif U:
        subject.energy = lambda x: U(x.to(device), alpha)
    if U and hasattr(U, "features") and not getattr(U, "classes", 0):  # with classes they are a labelled picture's
        subject.features = lambda x: U.features(x.to(device), alpha).flatten(1).float()
        untrained = cache(lambda: _untrained(U))
        subject.untrained = lambda x: untrained().features(x.to(device), alpha).flatten(1).float()
    for name, function in system(objective).gives(objective, networks | {"decoder": decoder}, alpha).items():
        setattr(subject, name, _on(device, function))
    if any(batch_norm.layers(network) for network in networks.values()):
        subject.settle = lambda x: _settle(networks, decoder, x.to(device))
    return subject


def _untrained(network: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(network)
    initialise(fresh, lambda name: noise.generator(0, f"untrained/{name}"))
    return fresh


def _settle(networks: dict[str, nn.Module], decoder: nn.Module | None, x: Tensor) -> None:
    """Batch norm's statistics of training pictures in what sees pictures, then of their codes in `decoder`; the generator's stay."""
    for player in ("inference", "energy"):
        if player in networks and batch_norm.layers(networks[player]):
            batch_norm.measure(networks[player], x)
    if decoder is not networks.get("generator") and "inference" in networks:
        batch_norm.measure(decoder, networks["inference"](x)[0])


def _on(device: torch.device, function: Callable) -> Callable:
    return lambda x, *rest: function(x.to(device), *rest)


def of_bundle(bundle: Bundle, name: str, prior: str = "") -> Subject:
    """A subject of an exported bundle, on the bundle's device, its samples drawn from `prior` as Bundle.place has it."""
    config = bundle.config
    shape = bundle.resolution, config["image_channels"], bundle.latent, 1.0, bundle.device
    info = config.get("info", {})
    subject = Subject(name, info.get("system", ""), info.get("images_seen", 0), *shape, generate=bundle.generator)
    draws_by_chains = bool(config.get("chains"))
    subject.draw = (
        bundle.sample if draws_by_chains else lambda seeds: bundle.generator(bundle.latents(seeds, prior))
    )  # not clamped, as a run's
    if bundle.inference:
        subject.posterior = lambda x: bundle.inference(x.to(bundle.device))
        subject.encode = lambda x: subject.posterior(x)[0]
        subject.decode = subject.generate
        subject.coded = not draws_by_chains
    if bundle.energy:
        subject.energy, subject.of_pairs = lambda x: bundle.energy(x.to(bundle.device)), bundle.pair_energy is not None
    return subject
