"""What a system is: its settings, a game between players, and what the trainer, the plan and export ask of both."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from hires import networks
from hires.errors import HiresError, NotFinite
from hires.networks import NetworkConfig, batch_norm

# draw(stream, size) -> N(0, 1) noise (B, size) for this rank's rows of the global batch, a function of (seed, stream, images seen)
Draw = Callable[[str, int], Tensor]
# what a grid in RUN/samples shows: name -> images (N, C, r, r) in [-1, 1], and the grid's columns (None: as square as it gets)
Pictures = dict[str, tuple[Tensor, int | None]]
# what goes from step to step beside the players: name -> (this rank's stretch, flattened; its start in the whole)
Carried = dict[str, tuple[Tensor, int]]
AT_ONCE = 4  # pictures of a grid that are computed at once


class Player(Protocol):
    """A network in the game with its optimizer, as hires.training.player has it."""

    network: nn.Module

    def __call__(self, *inputs: Any) -> Any:
        """Forward pass whose graph stays inside this player."""

    def accumulate(self) -> AbstractContextManager[None]:
        """One optimizer step's worth of backward passes."""

    def backward(self, loss: Tensor) -> None:
        """Back-propagate this rank's mean over its images."""

    def step(self, lr: float, ema_decay: float) -> None:
        """Update weights and moving average, but not by a gradient that is not finite; may raise NotFinite for it."""


@dataclass
class ObjectiveConfig(ABC):
    """The settings of a system, and what follows from them without its networks."""

    name: str = ""
    chains = None  # type: Any  # replay.ChainsConfig where samples come from Langevin chains

    @abstractmethod
    def players(self) -> tuple[str, ...]:
        """The networks of the game."""

    def together(self) -> tuple[tuple[str, ...], ...]:
        """The players whose gradients are held at the same time, for each moment of a round."""
        return tuple((name,) for name in self.players())

    @abstractmethod
    def fullest(self, kept: dict[str, int], whole: bool) -> int:
        """Bytes that autograd keeps an image at the fullest moment of a round.

        `kept`: those of a pass through each network; `whole`: the rank's batch is computed at once, else in micro-batches.
        """

    def weights_at(self, resolution: int) -> dict[str, float]:
        """The weights of the terms that change with the resolution, by the letters that tables show."""
        return {}

    def carries(self, resolution: int, channels: int) -> int:
        """Bytes, of all ranks together, of what the objective carries from step to step beside the players."""
        return 0


class Reconstructs:
    """Of settings with a reconstruction term."""

    kappa_pixel: float
    kappa_max: float

    def kappa(self, resolution: int) -> float:
        """Weight of R at `resolution`."""
        return min(self.kappa_pixel * resolution**2, self.kappa_max)


class Penalised:
    """Of settings with a gradient penalty."""

    r1: float

    def gamma(self, resolution: int) -> float:
        """Weight of the penalty on the image's gradient at `resolution`."""
        return self.r1 * max(0.25, (resolution / 32) ** 2)


@dataclass
class Rates:
    """Learning rates and moving-average decay of a round."""

    lr: float
    energy_lr: float
    ema_decay: float
    rounds: int = 1 << 62  # before this one, at its level


class Objective(ABC):
    """A game between players; of a system its class is registered in hires.objectives.SYSTEMS under the name of its settings."""

    Settings: ClassVar[type[ObjectiveConfig]]
    LOSSES: ClassVar[dict[str, str]]  # what each player lowers, in a line
    TAKES: ClassVar[dict[str, str]]  # what each player reads: images "x", latents "z" or pairs "xz"
    TERMS: ClassVar[dict[str, tuple[str, ...]]]  # terms by the player that they describe
    LINE: ClassVar[dict[str, str]]  # shown name -> measure, of a progress line
    SHAPED_BY: ClassVar[tuple[str, ...]] = ()  # settings that decide what the networks are
    LARGE: ClassVar[tuple[str, ...]] = ()  # streams of noise as large as the images: every rank draws its own rows alone
    ROWS: ClassVar[int] = 1  # images are taken in groups of this size
    PRIOR_CODES: ClassVar[bool] = True  # whether an inference model's codes are draws from a posterior over the prior's latents
    SCALING: ClassVar[bool] = False  # whether hires.planning counts its operations
    every: int = 1  # what is due only now and then is due each `every` steps

    @abstractmethod
    def __init__(self, config: Any, latent: int, players: Mapping[str, Player]):
        """`latent`: dimensions d of a latent."""

    @staticmethod
    def network(config: Any, shape: NetworkConfig, player: str, resolution: int, fading: bool) -> nn.Module:
        """A player's network, parameters not yet set."""
        return networks.build(shape, player, resolution, fading)

    @staticmethod  # noqa: B027 - most have nothing to check
    def check(config: Any, shape: NetworkConfig, zero_stage: int) -> None:
        """Raise HiresError for a combination that does not train."""

    @staticmethod
    def gives(config: Any, networks: Mapping[str, nn.Module], alpha: float) -> dict[str, Callable]:
        """Functions that only this system has for a Subject of hires.evaluation, out of trained networks, by the Subject's names."""
        return {}

    @abstractmethod
    def batch(self, x: Tensor, alpha: float, draw: Draw, latent: int) -> Any:
        """What a round on this rank's real images x (B, C, r, r) in [-1, 1], faded by `alpha`, needs, its noise drawn.

        Systems whose networks read labels (`network.classes`) take these as well: `labels` (B,) int64.
        """

    @abstractmethod
    def round(self, batch: Any, rates: Rates, resolution: int, due: bool, micro_batch: int = 0) -> dict[str, Tensor]:
        """Update every player; returns terms as scalars on the device, this rank's means.

        `due`: whether it is a step of those that `every` counts; `micro_batch`: images computed at once, 0 = all, to save memory. Raises
        NotFinite, with the terms by then, where a player does for a gradient that is not finite.
        """

    def pictures(self, networks: dict[str, nn.Module], x: Tensor, z: Tensor, alpha: float) -> Pictures:
        """What the averaged networks make of fixed latents z and held-out pictures x: samples and reconstructions by default."""
        G = networks["generator"]
        return fakes(G, z, alpha) | reconstructions(G, networks["inference"], x, alpha)

    def carried(self) -> Carried:
        """What a checkpoint holds beside the players, such as a replay buffer; most systems have none."""
        return {}

    def restore(self, checkpoint: Any) -> None:  # noqa: B027 - most have nothing to restore
        """Take up what `carried` gave when `checkpoint` was written: `checkpoint.read("carried", name, "state", start, numel)`."""


def require_single(what: str, shape: NetworkConfig) -> None:
    """Raise HiresError where `what` penalises images one by one and the energy, of a kind with batch norm as published, mixes them."""
    if shape.energy_norm == "published":
        found = f"{what} with network.kind={shape.kind}: the penalty is of single images, which this energy's batch norm mixes"
        raise HiresError(f"{found}; set network.energy_norm=layer")


class Record:
    """The terms of a round, on the device: nothing waits for the host. As a context it hands them to a NotFinite that leaves it."""

    def __init__(self, share: float, means: Mapping[str, Tensor] | None = None):
        """`share`: one over the number of micro-batches; `means`: what was measured of the whole batch before."""
        self.share = share
        self.means: dict[str, Tensor] = dict(means or {})

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        if isinstance(error, NotFinite):
            error.terms = self.means  # which of them broke is reported

    def add(self, **terms: Tensor) -> None:
        """Add a micro-batch's means."""
        for name, value in terms.items():
            value = value.detach().float() * self.share
            self.means[name] = self.means[name] + value if name in self.means else value


def in_parts(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """function(inputs) in the host's memory, AT_ONCE rows at a time: what the device must hold does not depend on their number."""
    return torch.cat([function(part).cpu() for part in inputs.split(AT_ONCE)])


def fakes(generator: nn.Module, z: Tensor, alpha: float) -> Pictures:
    """`fakes`: the samples of latents z."""
    return {"fakes": (in_parts(lambda part: generator(part, alpha), z), None)}


def reconstructions(generator: nn.Module, inference: nn.Module, x: Tensor, alpha: float) -> Pictures:
    """`reconstructions`: each picture of x beside its own from the posterior's mean."""
    codes = in_parts(lambda part: inference(part, alpha)[0], x).to(x.device)
    if batch_norm.layers(generator):  # its own statistics are of the prior's latents
        generator = copy.deepcopy(generator)
        batch_norm.measure(generator, codes)
    x_hat = in_parts(lambda part: generator(part, alpha), codes)
    return {"reconstructions": (torch.stack([x.cpu(), x_hat], 1).flatten(0, 1), 8)}
