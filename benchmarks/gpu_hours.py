"""How long an experiment takes on a GPU, on paper: operations counted in real rounds of its objective, at an assumed rate.

    python benchmarks/gpu_hours.py triangle_cifar10 "f_ebm objective.divergence=kl"        # an experiment and its settings each
    python benchmarks/gpu_hours.py --tflops 60 --pass-ms 1.5 cifar10

A round takes `--pass-ms` for each pass through a network, whatever the batch (launching kernels), and its operations at `--tflops` 10^12 a
second. Both are assumed, not measured; the defaults are those of docs/records/performance.md (30 ms for the triangle's 20 passes).
`hires plan nodes=…` says more of the triangle (several GPUs, sending), `benchmarks/scaling.py` measures.
"""

import argparse

import torch
from torch.utils.flop_counter import FlopCounterMode

from hires import config as configuration
from hires.ground import distributed
from hires.objectives import system
from hires.objectives.base import Rates
from hires.planning.steptime import _NoModules, _PaperPlayer
from hires.training.game import build_network
from hires.training.schedule import Level, Schedule

ROWS = 4  # images of a counted round: vcd takes pairs


class CountingPlayer(_PaperPlayer):
    """A player without an engine that counts passes through its network."""

    passes = 0

    def __call__(self, *args, **more):
        self.passes += 3 if torch.is_grad_enabled() else 1  # its backward, of two passes, follows
        return self.network(*args, **more)


def main() -> None:
    """Print a row an experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+")
    parser.add_argument("--tflops", type=float, default=60.0)
    parser.add_argument("--pass-ms", type=float, default=1.5)
    given = parser.parse_args()
    distributed.start(threads=1)
    print(f"| experiment | images | rounds | GFLOP an image at the last level | passes a round | hours at {given.tflops:g} TFLOP/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for text in given.experiments:
        name, *settings = text.split()
        config = configuration.load("train", [f"experiment={name}", "run=x", "data.root=y", *settings])
        schedule = Schedule(config.schedule)
        counted = [(level, *round_of(config, level)) for level in schedule.levels]
        rounds = {level.resolution: (level.end - level.start) // level.config.batch for level in schedule.levels}
        seconds = sum(
            rounds[level.resolution] * (passes * given.pass_ms / 1e3 + level.config.batch * operations / given.tflops / 1e12)
            for level, operations, passes in counted
        )
        _, operations, passes = counted[-1]
        print(f"| {text} | {schedule.total:,} | {sum(rounds.values()):,} | {operations / 1e9:.1f} | {passes} | {seconds / 3600:.1f} |")
    distributed.stop()


def round_of(config, level: Level) -> tuple[float, int]:
    """(Floating-point operations an image, two a multiply-add; passes) of a round on a faded-in level, with a penalty's share."""
    r, found = level.resolution, []
    module, objective = system(config.objective), config.objective
    for due in (False, True):
        players = {name: CountingPlayer(build_network(config, name, r, False)) for name in objective.players()}
        game = module(objective, config.network.latent, players)
        x = torch.zeros(ROWS, config.network.image_channels, r, r)
        batch = game.batch(x, 1.0, lambda _, size: torch.randn(ROWS, size), config.network.latent)
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = _NoModules()
        with counter:
            game.round(batch, Rates(0.0, 0.0, 0.0), r, due)
        found.append((counter.get_total_flops() / ROWS, sum(player.passes for player in players.values())))
    (plain, passes), (penalised, _) = found
    return plain + (penalised - plain) / max(game.every, 1), passes


if __name__ == "__main__":
    main()
