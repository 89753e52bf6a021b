"""Bytes that a rank holds of weights, gradients, moments and moving average, against the formula that `hires plan` prints.

    python benchmarks/memory.py                                             # base at 64x64 and xl at 8x8, on 1, 2, 4 processes
    python benchmarks/memory.py --networks slim --worlds 2 --stages 1,3

For each network, number of gloo processes and ZeRO stage, one set of processes plays the three players one after another (so that xl fits
a small machine): engine, two steps, each of two backward passes in one block, as a round has them. Counted are the tensors that the first
rank really holds, found by the garbage collector, each storage once: no resident sizes, no formula. Those of the engine's parameters and
Adam's fp32 copies are weights, its state is moments, and all that is neither these nor the moving average is gradients: DeepSpeed's buckets
and copies too. Looked at after each backward pass, in each reduction and in each of Adam's steps; the most is told. Gradients are what
the backward passes leave, buffers what a reduction has on top. Stage 0 is fp32 (bf16 is refused there), the others are bf16. The numbers
of the three players are added up, while `hires plan` tells those that are held at one time.
"""

import argparse
import gc
import json
from pathlib import Path
import subprocess
import sys
import tempfile

import torch
from torch import Tensor
import torch.distributed as dist

from hires import config as configuration
from hires import networks
from hires.checkpoints.fragments import MOMENTS
from hires.ground import distributed
from hires.objectives.divergence_triangle import PLAYERS
from hires.planning.memory import held
from hires.training.game import build_network
from hires.training.player import Player, new_player

LEVELS = {"base": 64, "xl": 8}  # xl grown further does not fit four times into 24 GiB at stage 0
PARTS = ("weights", "gathered", "gradients", "buffers", "moments", "average")
REDUCTIONS = ("all_reduce", "reduce_scatter_tensor")
watchers: list["Ledger"] = []


def watch_reductions() -> None:
    """Have the ledgers in `watchers` look in each reduction; before DeepSpeed is imported, which keeps some of these functions."""

    def watched(collective):
        def call(*args, **kwargs):
            for ledger in watchers:
                ledger.look()
            return collective(*args, **kwargs)

        return call

    for name in REDUCTIONS:
        setattr(dist, name, watched(getattr(dist, name)))


def storages(tensors) -> dict[int, int]:
    """Address -> bytes of the storages that real tensors hold."""
    found = (t.untyped_storage() for t in tensors if isinstance(t, Tensor) and t.device.type != "meta")
    return {storage.data_ptr(): storage.nbytes() for storage in found if storage.nbytes()}


def live_tensors() -> list[Tensor]:
    """All tensors that Python knows, but those of the libraries (see `work`)."""
    return [o for o in gc.get_objects() if type(o) in (Tensor, torch.nn.Parameter)]


class Ledger:
    """The most that one player holds on this rank."""

    def __init__(self, player: Player, before: int):
        """`before`: bytes that earlier players left behind."""
        self.player, self.before = player, before
        self.most: dict[str, int] = {}
        self.look()
        self.start = dict(self.most)

    def look(self, graph: bool = False) -> int:
        """Count the tensors of this process now; bytes of those that are neither weights, moments nor average (`rest`).

        Between a forward and its backward pass, `graph`, those hold the pass's own tensors too, and are not counted.
        """
        player, parameters = self.player, list(self.player.network.parameters())
        flats = [flat for flat, _ in player._flats()]
        found = {
            "weights": storages([t for p in parameters for t in (p.data, getattr(p, "ds_tensor", None))] + [f.data for f in flats]),
            "moments": storages(player._state[flat][moment] for flat in flats for moment in MOMENTS),
            "average": storages(fragment.ema for fragment in player.fragments),
        }
        gradients = [p.grad for p in (*parameters, *flats)]  # autograd's own, until Python has looked at them
        live = storages(live_tensors() + gradients)
        known = {address for part in found.values() for address in part}
        found["rest"] = {address: size for address, size in live.items() if address not in known and not graph}
        now = {part: sum(sizes.values()) for part, sizes in found.items()}
        now["rest"] -= 0 if graph else self.before
        self.most = {part: max(self.most.get(part, 0), size) for part, size in now.items()}
        return now["rest"]


def measure(config, resolution: int, world: distributed.World) -> dict[str, dict[str, int]]:
    """player -> part -> bytes of this rank, at their most in two steps."""
    found = {}
    for name in PLAYERS:
        gc.collect()
        before = sum(storages(live_tensors()).values())
        network = build_network(config, name, resolution, resolution > 4)
        player = new_player(name, network, config.optimizer, config.zero, config.train.precision, world.device)
        shape = (1, config.network.latent) if name == "generator" else (1, config.network.image_channels, resolution, resolution)
        del network
        ledger = Ledger(player, before)
        # torch's optimizer under DeepSpeed, or the player's own call of its function
        owner, name_of_step = (player._adam, "step") if player.stage else (player, "_update")
        step = getattr(owner, name_of_step)

        def looked(*given, step=step, ledger=ledger):
            ledger.look()
            return step(*given)

        setattr(owner, name_of_step, looked)
        watchers.append(ledger)
        gradients = 0
        for _ in range(2):
            with player.accumulate():
                for _ in range(2):
                    out = player(torch.ones(shape, device=world.device), 0.5)
                    loss = sum(t.square().mean() for t in (out if isinstance(out, tuple) else (out,)))
                    ledger.look(graph=True)
                    player.backward(loss)
                    del out, loss
                    gc.collect()  # of the last reduction's copies
                    gradients = max(gradients, ledger.look() - ledger.start["rest"])
            player.step(1e-3, 0.5)
        watchers.clear()
        delattr(owner, name_of_step)
        start, most = ledger.start, ledger.most
        found[name] = {
            "weights": start["weights"],
            "gathered": most["weights"] - start["weights"],
            "gradients": gradients,
            "buffers": most["rest"] - gradients,
            "moments": most["moments"],
            "average": most["average"],
        }
        del ledger, looked, step, owner  # they hold the state that is to go
        player.destroy()
    return found


def work(out: Path, resolution: int, overrides: list[str]) -> None:
    """One process of a configuration: all measure, the first writes player -> part -> [measured, computed] to `out`."""
    watch_reductions()
    config = configuration.load("train", ["experiment=celebahq_1024", "run=none", "data.root=none", "objective.r1=0", *overrides])
    world = distributed.start(threads=1)
    gc.collect()
    gc.freeze()  # what is there now need not be looked through each time
    measured = measure(config, resolution, world)
    if world.first:
        table = {}
        for name in PLAYERS:
            with torch.device("meta"):
                network = networks.build(config.network, name, resolution, resolution > 4)
            formula = held(network, config.zero.stage, config.train.precision, world.size)
            parameters = sum(p.numel() for p in network.parameters())
            table[name] = {"parameters": parameters} | {part: [measured[name][part], getattr(formula, part)] for part in PARTS}
        out.write_text(json.dumps(table), encoding="utf-8")
    distributed.stop()


def row(network: str, resolution: int, world: int, stage: int) -> str:
    """One line of the table, in processes of its own."""
    precision = "bf16" if stage else "fp32"
    overrides = [f"network={network}", f"zero.stage={stage}", f"train.precision={precision}"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bytes.json"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
        command = [*launch, __file__, "--worker", str(out), "--resolution", str(resolution), *overrides]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{network} on {world} at stage {stage} failed:\n{done.stderr[-3000:]}")
        players = json.loads(out.read_text()).values()
    cells = []
    for part in PARTS:
        real, computed = (sum(player[part][i] for player in players) for i in (0, 1))
        error = f" ({computed / real - 1:+.1%})" if real > 1e5 and abs(computed / real - 1) >= 5e-4 else ""
        cells.append(f"{real / 1e6:,.1f} / {computed / 1e6:,.1f}{error}")
    parameters = sum(player["parameters"] for player in players)
    return f"| {network} {resolution}x{resolution}, {parameters / 1e6:.2f} M | {world} | {stage} {precision} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default="base,xl")
    parser.add_argument("--worlds", default="1,2,4")
    parser.add_argument("--stages", default="0,1,2,3")
    parser.add_argument("--resolution", type=int, default=0, help="default: 64 for base, 8 for xl, 16 for others")
    parser.add_argument("--worker", type=Path, help="one process of a configuration (started by this script)")
    parser.add_argument("overrides", nargs="*", help="of the worker's configuration")
    args = parser.parse_args()
    if args.worker:
        return work(args.worker, args.resolution, args.overrides)
    print("measured / computed, MB (10^6 bytes) on the first rank\n")
    print("| network | processes | ZeRO | " + " | ".join(PARTS) + " |\n|" + " --- |" * (len(PARTS) + 3))
    for network in args.networks.split(","):
        for world in map(int, args.worlds.split(",")):
            for stage in map(int, args.stages.split(",")):
                print(row(network, args.resolution or LEVELS.get(network, 16), world, stage), flush=True)
    return None


if __name__ == "__main__":
    main()
