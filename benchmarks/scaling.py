"""Predicted against measured: the scaling model of hires/planning/scaling.py on 1, 2 and 4 gloo processes of this machine.

    python benchmarks/scaling.py                                     # network=slim at 16x16 and 32x32, ZeRO 1, a few minutes
    python benchmarks/scaling.py --repeats 5 --write times.yaml      # and the table of one process for hires plan measured=times.yaml

One process with one thread is timed at every batch that a rank will have; t(b) = t0 + t1 b is fitted to all of them but those predicted,
where three or more are left. gloo's latency (an all-reduce of one number) and bandwidth (of this network's gradient) are measured by as
many processes as are then predicted. Processes beyond the machine's cores share them: computing is taken as processes / cores times
longer. Each repeat starts the worlds anew, one after the other, and the fastest of all rounds of all repeats counts, since whatever else
the machine does is not in the model; the median stands beside it. A rank's processor time is predicted and measured too, of computing
alone: on a machine that others use it is what can be compared. There is no gradient penalty.
"""

import argparse
from dataclasses import replace
import datetime
import json
import os
from pathlib import Path
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import yaml

from hires import config as configuration
from hires.ground import distributed
from hires.planning.memory import level_networks
from hires.planning.scaling import Cluster, Collective, forecast, sent
from hires.planning.steptime import fit
from hires.training.game import Game
from hires.training.schedule import Schedule


def settings(args: argparse.Namespace, resolution: int, batch: int):
    """The training configuration of one level with a global batch."""
    overrides = [f"network={args.network}", f"zero.stage={args.stage}", f"train.precision={args.precision}", "objective.r1=0"]
    level = [f"schedule.resolution={resolution}", f"schedule.levels.{resolution}.batch={batch}", "schedule.ema_halflife=1k"]
    return configuration.load("train", ["experiment=celebahq_1024", "run=none", "data.root=none", *overrides, *level])


def rounds(args: argparse.Namespace, world, resolution: int, batch: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each round, of Adam's steps in it, and of this process's processor time, at a global batch."""
    config = settings(args, resolution, batch)
    schedule = Schedule(config.schedule)
    start = schedule.levels[-1].start
    game = Game(config, world, schedule.at(start).shape)
    pictures = torch.zeros(batch // world.size, config.network.image_channels, resolution, resolution, dtype=torch.uint8)
    in_step = 0.0
    for player in game.players.values():

        # torch's optimizer under DeepSpeed, or the player's own call of its function
        owner, name = (player._adam, "step") if player.stage else (player, "_update")
        step = getattr(owner, name)

        def timed(*given, step=step):
            nonlocal in_step
            began = time.perf_counter()
            step(*given)
            in_step += time.perf_counter() - began

        setattr(owner, name, timed)
    taken, steps, busy = [], [], []
    for i in range(args.rounds + 2):
        dist.barrier()
        in_step, began, processor = 0.0, time.perf_counter(), time.process_time()
        game.round(schedule.at(start + i * batch), pictures, due=False)
        taken.append(time.perf_counter() - began)
        steps.append(in_step)
        busy.append(time.process_time() - processor)
    game.destroy()
    return taken[2:], steps[2:], busy[2:]


def collectives(args: argparse.Namespace, resolution: int) -> dict[str, list[float]]:
    """Seconds of an all-reduce of one number, and of one of the generator's gradient."""
    config = settings(args, resolution, 64)
    level = Schedule(config.schedule).levels[-1]
    number = torch.bfloat16 if args.precision == "bf16" else torch.float32
    count = sum(p.numel() for p in level_networks(config, level)["generator"].parameters())
    one, many = torch.zeros(1), torch.zeros(count, dtype=number)
    calls = {
        "small": lambda: dist.all_reduce(one),
        "all_reduce": lambda: dist.all_reduce(many),
    }
    found = {}
    for name, call in calls.items():
        times = []
        for _ in range(3 * args.rounds):
            dist.barrier()
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        found[name] = times[3:]
    return found | {"bytes": [many.numel() * many.element_size()]}


def work(args: argparse.Namespace) -> None:
    """One process of a world: times of its levels, written by the first."""
    world = distributed.start(threads=1)
    found = {}
    for resolution in args.resolutions:
        # one process has every batch that a rank of the others will have, and some more to fit a line to
        batches = args.batches if world.size == 1 else [args.batch]
        times = {batch: rounds(args, world, resolution, batch) for batch in batches}
        found[resolution] = {"rounds": times, "collectives": collectives(args, resolution)}
    if world.first:
        args.worker.write_text(json.dumps(found))
    distributed.stop()


def measure(args: argparse.Namespace, size: int) -> dict:
    """What `work` finds, in `size` processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "times.json"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={size}"]
        done = subprocess.run([*launch, __file__, "--worker", str(out), *sys.argv[1:]], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{size} processes failed:\n{done.stderr[-3000:]}")
        return json.loads(out.read_text())


def gathered(runs: list[dict], resolution: int, *keys) -> list[float]:
    """The numbers under `keys` of all repeats, in one list."""
    numbers = []
    for run in runs:
        found = run[str(resolution)]
        for key in keys:
            found = found[key]
        numbers += found
    return numbers


def report(args: argparse.Namespace, runs: dict[int, list[dict]]) -> tuple[list[str], list[dict]]:
    """Rows of the table, and those of the file for `hires plan`."""
    lines, steps, cores = [], [], len(os.sched_getaffinity(0))
    for resolution in args.resolutions:
        points = {b: [min(gathered(runs[1], resolution, "rounds", str(b), i)) for i in (0, 1, 2)] for b in args.batches}
        steps += [{"level": resolution, "batch": b, "seconds": round(t, 6), "optimizer": round(o, 6)} for b, (t, o, _) in points.items()]
        predicted = {args.batch // size for size in runs}
        others = [batch for batch in points if batch not in predicted]
        fitted = {b: points[b] for b in (others if len(others) >= 2 else points)}
        line = fit([(b, t, o) for b, (t, o, _) in fitted.items()])
        processor = fit([(b, t, min(o, t / 2)) for b, (_, o, t) in fitted.items()])
        config = settings(args, resolution, args.batch)
        level = Schedule(config.schedule).levels[-1]
        alone = points[args.batch][0]
        for size in runs:
            best = {k: min(gathered(runs[size], resolution, "collectives", k)) for k in ("small", "all_reduce", "bytes")}
            large = Collective("all_reduce", int(best["bytes"]), 1)
            rate = sent(large, size) / max(1e-9, best["all_reduce"] - best["small"]) if size > 1 else 1.0
            cluster = Cluster(1, size, 1.0, rate, best["small"])
            slow = max(1.0, size / cores)
            time_of = replace(line, fixed=line.fixed * slow, per_image=line.per_image * slow, optimizer=line.optimizer * slow)
            expected = forecast(config, level, cluster, time_of)
            busy = min(gathered(runs[size], resolution, "rounds", str(args.batch), 2))
            alike = forecast(config, level, cluster, processor).computing
            taken = gathered(runs[size], resolution, "rounds", str(args.batch), 0)
            real, middle = min(taken), statistics.median(taken)
            lines.append(
                f"| {resolution} | {args.batch} | {size} | {args.batch // size} | {f'{rate / 1e9:.2f}' if size > 1 else ''} "
                f"| {best['small'] * 1e3:.2f} | {expected.communicating * 1e3:.1f} | {expected.computing * 1e3:.1f} "
                f"| {expected.seconds * 1e3:.1f} | {real * 1e3:.1f} ({middle * 1e3:.1f}) | {expected.seconds / real - 1:+.0%} "
                f"| {alone / size / real:.0%} | {alike * 1e3:.1f} | {busy * 1e3:.1f} |"
            )
    return lines, steps


COLUMNS = (
    *("px", "batch", "processes", "a rank", "GB/s", "ms a collective", "moving (ms)", "computing (ms)"),
    *("predicted (ms)", "measured (median, ms)", "error", "efficiency", "a rank's processor: predicted (ms)", "measured (ms)"),
)


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", default="slim")
    parser.add_argument("--resolutions", default="16,32")
    parser.add_argument("--batch", type=int, default=16, help="global; divides by 8 and by the numbers of processes (default 16)")
    parser.add_argument("--worlds", default="1,2,4")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--stage", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=6, help="of each batch in each repeat (default 6)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path, help="a YAML file of one process's times, for hires plan measured=FILE")
    parser.add_argument("--worker", type=Path, help="one process of a world (started by this script)")
    args = parser.parse_args()
    args.resolutions = [int(r) for r in args.resolutions.split(",")]
    worlds = sorted({1, *map(int, args.worlds.split(","))})
    args.batches = sorted({args.batch // size for size in worlds} | {args.batch * eighths // 8 for eighths in (1, 3, 6, 10)})
    if args.worker:
        return work(args)
    runs = {size: [] for size in worlds}
    for _ in range(args.repeats):
        for size in worlds:  # one after the other, so that whatever else the machine does strikes all alike
            runs[size].append(measure(args, size))
    lines, steps = report(args, runs)
    cores, date = len(os.sched_getaffinity(0)), datetime.date.today()
    machine = f"{platform.machine()} CPU, one thread a process on {cores} cores, {args.network} {args.precision} ZeRO {args.stage}, {date}"
    print(f"{machine}; load {os.getloadavg()[1]:.1f} in the last five minutes, {args.repeats} repeats of {args.rounds} rounds\n")
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS))
    print("\n".join(lines))
    if args.write:
        args.write.write_text(yaml.safe_dump({"machine": machine, "steps": steps}, sort_keys=False))
    return None


if __name__ == "__main__":
    main()
