"""Three real optimizer steps of all three players at 1024x1024, batch 1, through the code that trains: time and peak memory.

    python benchmarks/base1024.py                                # on noise
    python benchmarks/base1024.py --data data/celebahq           # on pictures out of shards

On noise where no shards are given: time and memory are the same.
"""

import argparse
import time

import torch

from hires import config as configuration
from hires.ground import distributed
from hires.training.game import Game, settle_precision
from hires.training.monitor import memory_gb
from hires.training.schedule import Schedule
from pipelines import Loader, Shards


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", default="base")
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--data", default="", help="shards that hold this resolution (default: noise)")
    parser.add_argument("--precision", default="auto", help="auto, bf16 or fp32 (default auto)")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()

    r = args.resolution
    overrides = [f"schedule.levels.{r}.batch=1", f"network={args.network}", f"train.precision={args.precision}"]
    config = configuration.load("train", ["experiment=celebahq_1024", "run=none", "data.root=none", *overrides])
    world = distributed.start(args.threads)
    config = settle_precision(config, world)
    schedule = Schedule(config.schedule)
    level = next(level for level in schedule.levels if level.resolution == r)
    phase = schedule.at(level.start)  # fading in, with the level below's projections: the larger state
    pictures = torch.randint(0, 256, (args.steps, 3, r, r), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    if args.data:
        shards = Shards.open(args.data)
        shards.require_level(r)
        pictures = Loader(shards, r, "train", 0.0, 1).read(range(args.steps))

    started = time.perf_counter()
    game = Game(config, world, phase.shape)
    parameters = sum(shape.numel() for player in game.players.values() for shape in player.shapes.values())
    print(
        f"{args.network}, {r}x{r}, batch 1, {config.train.precision}, {parameters / 1e6:.2f} M parameters, on {args.data or 'noise'}, "
        f"{torch.get_num_threads()} CPU threads, {world.device}: built in {time.perf_counter() - started:.1f} s, "
        f"{memory_gb(world.device):.2f} GB"
    )
    for step in range(args.steps):
        phase = schedule.at(level.start + step)
        before = {name: player.fragments[0].weight.clone() for name, player in game.players.items()}
        started, busy = time.perf_counter(), time.process_time()
        measures = game.round(phase, pictures[step : step + 1])
        values = {name: value.item() for name, value in measures.items() if name in ("energy_real", "energy_fake", "R", "K", "N", "r1")}
        took, busy = time.perf_counter() - started, time.process_time() - busy
        moved = all(not torch.equal(before[name], player.fragments[0].weight) for name, player in game.players.items())
        told = ", ".join([f"{name} {value:.4g}" for name, value in values.items()])
        outcome = "all three moved" if moved else "NOT ALL MOVED"
        peak = memory_gb(world.device)
        print(f"step {step + 1}: {took:.1f} s ({busy:.1f} s of processor), peak {peak:.2f} GB, {outcome}; {told}", flush=True)
    game.destroy()
    distributed.stop()


if __name__ == "__main__":
    main()
