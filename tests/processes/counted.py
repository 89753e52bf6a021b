"""Run by test_scaling as two ranks: what real processes send each other in a round, and what they hold.

    counted.py OUT

writes OUT: {"traffic": case -> [[kind, bytes], …] of a round, "held": stage -> player -> part -> bytes}.
"""

import gc
import importlib.util
import json
from pathlib import Path
import sys

import torch
import torch.distributed as dist

CALLS: list[tuple[str, int]] = []
WATCHED = {"all_reduce": "all_reduce", "all_gather_into_tensor": "all_gather", "reduce_scatter_tensor": "reduce_scatter"}  # and its kind
NETWORK = ["network=slim", "network.latent=8", "network.channels_base=128", "network.channels_max=16", "network.convs=1"]
CASES = {  # stage, precision, order, micro-batch (a rank has four images), the generator's steps
    "stage 0": (0, "fp32", "energy_first", 0, 1),
    "stage 1": (1, "bf16", "energy_first", 0, 1),
    "stage 2, in parts": (2, "fp32", "simultaneous", 2, 2),
    "stage 3": (3, "bf16", "energy_first", 0, 1),
    "stage 3, in parts": (3, "fp32", "energy_first", 2, 1),
}
BATCH, HELD = 8, (1, 3)


def overrides(stage: int, precision: str, order: str, micro: int, steps: int) -> list[str]:
    """The configuration of a case: 8x8, fading in."""
    return [
        *("experiment=celebahq_1024", *NETWORK, "objective.r1=0", f"zero.stage={stage}", f"train.precision={precision}"),
        *(f"objective.updates={order}", f"objective.generator_steps={steps}", "schedule.resolution=8"),
        *(f"schedule.levels.8.batch={BATCH}", f"schedule.levels.8.micro_batch={micro}"),
    ]


def watch() -> None:
    """Have every collective's name and bytes noted; before DeepSpeed has a group, which keeps some of these functions."""

    def watched(function, kind: str):
        def call(*args, **kwargs):
            tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
            CALLS.append((kind, max(t.numel() * t.element_size() for t in tensors)))  # of a part and the whole, the whole
            return function(*args, **kwargs)

        return call

    for name, kind in WATCHED.items():
        setattr(dist, name, watched(getattr(dist, name), kind))


def main(out: Path) -> None:
    watch()
    spec = importlib.util.spec_from_file_location("memory", Path(__file__).parents[2] / "benchmarks" / "memory.py")
    memory = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(memory)
    memory.watch_reductions()
    from hires import config as configuration
    from hires.ground import distributed
    from hires.training.game import Game
    from hires.training.schedule import Schedule

    world = distributed.start(threads=1)
    gc.collect()
    gc.freeze()
    traffic, held = {}, {}
    for case, settings in CASES.items():
        config = configuration.load("train", [*overrides(*settings), "run=none", "data.root=none"])
        schedule = Schedule(config.schedule)
        start = schedule.levels[-1].start
        game = Game(config, world, schedule.at(start).shape)
        for i in range(2):  # DeepSpeed's stage 3 learns the order of the modules in its first round
            CALLS.clear()
            game.round(schedule.at(start + i * BATCH), torch.zeros(BATCH // world.size, 3, 8, 8, dtype=torch.uint8))
        traffic[case] = list(CALLS)
        game.destroy()
    for stage in HELD:
        config = configuration.load("train", [*overrides(stage, "bf16", "energy_first", 0, 1), "run=none", "data.root=none"])
        held[stage] = memory.measure(config, 8, world)
    if world.first:
        out.write_text(json.dumps({"traffic": traffic, "held": held}))
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
