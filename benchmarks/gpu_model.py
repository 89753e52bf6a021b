"""Seconds a thousand images on one large GPU, on paper: every operation of a round on torch's meta device, at assumed rates.

    python benchmarks/gpu_model.py                                          # the default at 1024x1024, batches of 4 and 32
    python benchmarks/gpu_model.py "" "network.downsampling=fused" --split  # two games, and where the time of the larger batch goes

An operation takes the longer of its traffic (3.6 TB/s, pooling 2.4) and its products (500, 350, 200, 100, 45 or 15 TFLOP/s from 256,
128, 64, 32, 16 or fewer channels up, weights' gradients .6 of that), and at least 2.5 us. A convolution also puts its weight into the
order of pixels and adds its bias. Assumed, not measured. The host, the optimizers and the data are left out.
"""

import argparse
from collections import Counter

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hires import config as configuration
from hires.ground.machine import DTYPES
from hires.objectives import system
from hires.objectives.base import Rates
from hires.planning.steptime import _PaperPlayer
from hires.training.game import empty_network

MEMORY, POOLING, LEAST = 3.6e12, 2.4e12, 2.5e-6  # bytes a second, and seconds
PRODUCTS = {256: 500e12, 128: 350e12, 64: 200e12, 32: 100e12, 16: 45e12, 0: 15e12}  # channels from which -> operations a second
OF_WEIGHTS = 0.6
FREE = ("empty", "new_empty", "_unsafe_view", "lift_fresh")  # beside views


class Clock(TorchDispatchMode):
    """Adds up seconds, bytes and products by what an operation is, and counts kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: Counter[str] = Counter()
        self.bytes = self.operations = self.kernels = 0

    def add(self, kind: str, moved: int, seconds: float = 0.0, rate: float = MEMORY) -> None:
        """A kernel that moves so many bytes, or takes longer for its products."""
        self.seconds[kind] += max(moved / rate, seconds, LEAST)
        self.bytes += moved
        self.kernels += 1

    def product(self, kind: str, moved: int, operations: int, channels: int, share: float = 1.0) -> None:
        """A convolution, forward or one of the two backward."""
        rate = next(rate for least, rate in PRODUCTS.items() if channels >= least)
        self.operations += operations
        self.add(kind, moved, operations / (rate * share))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name == "convolution":
            x, weight, bias = args[:3]
            self.product("products forward", size(x, out, weight), *work(x if args[6] else out, weight))
            self.add("weights' order", 2 * size(weight))
            if bias is not None:
                self.add("biases", 2 * size(out))
        elif name == "convolution_backward":
            g, x, weight = args[:3]
            to_x, to_weight, to_bias = args[-1]
            done = work(x if args[7] else g, weight)
            if to_x:
                self.product("products for inputs", size(g, x, weight), *done)
            if to_weight:
                self.product("products for weights", size(g, x, weight), *done, OF_WEIGHTS)
            if to_bias:
                self.add("biases", size(g))
            if to_x or to_weight:
                self.add("weights' order", 2 * size(weight))
        elif not (function.is_view or name.startswith(FREE)):
            moved = [leaf for leaf in tree_leaves((args, out)) if isinstance(leaf, Tensor)]
            if "pool" in name or "upsample" in name:
                self.add("pooling", size(*moved), rate=POOLING)
            else:
                self.add("leaky ReLU" if "leaky" in name else "the rest", size(*moved))
        return out


def size(*tensors: Tensor) -> int:
    """Bytes."""
    return sum(t.numel() * t.element_size() for t in tensors)


def work(over: Tensor, weight: Tensor) -> tuple[int, int]:
    """(operations, channels) of a convolution whose kernel is applied at each pixel of `over`: its output, transposed its input."""
    return 2 * over.numel() * weight[0].numel(), min(weight.shape[:2])


def clocked(config, resolution: int, batch: int, due: bool) -> Clock:
    """A round of the game, on paper."""
    kind, latent = system(config.objective), config.network.latent
    with torch.device("meta"):
        networks = {name: empty_network(config, name, resolution, False).to(DTYPES["bf16"]) for name in config.objective.players()}
        x = torch.empty(batch, config.network.image_channels, resolution, resolution)
    game = kind(config.objective, latent, {name: _PaperPlayer(network) for name, network in networks.items()})
    given = game.batch(x, 1.0, lambda _, width: torch.empty(batch, width, device="meta"), latent)
    with Clock() as clock:
        game.round(given, Rates(1e-3, 1e-3, 0.99), resolution, due)
    return clock


def main() -> None:
    """Print a row for each game."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games", nargs="*", default=[""], help="words of hires train, a game in quotes; '' is the default")
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--batches", default="4,32")
    parser.add_argument("--split", action="store_true", help="where the time of the last batch goes, without the penalty")
    given = parser.parse_args()
    batches = [int(batch) for batch in given.batches.split(",")]
    heads = [f"s/kimg, batch {batch}" for batch in batches]
    print(f"| a step at {given.resolution} px | {' | '.join(heads)} | without the penalty | GB an image | TFLOP an image | kernels |")
    print("| --- " * (len(heads) + 5) + "|")
    for settings in given.games:
        words = ["experiment=celebahq_1024", "run=none", "data.root=none", *settings.split()]
        config = configuration.load("train", words)
        every = getattr(config.objective, "r1_every", 1)
        cells = []
        for batch in batches:
            plain, due = (clocked(config, given.resolution, batch, due) for due in (False, True))
            whole = (sum(plain.seconds.values()) * (every - 1) + sum(due.seconds.values())) / every
            cells.append(f"{whole / batch * 1e3:.1f}")
        cells += [f"{sum(plain.seconds.values()) / batch * 1e3:.1f}", f"{plain.bytes / batch / 1e9:.1f}"]
        print(f"| {settings or 'default'} | {' | '.join(cells)} | {plain.operations / batch / 1e12:.2f} | {plain.kernels:,} |")
        if given.split:
            print(*(f"{kind} {seconds / batch * 1e3:.2f}" for kind, seconds in plain.seconds.most_common()), sep=", ")


if __name__ == "__main__":
    main()
