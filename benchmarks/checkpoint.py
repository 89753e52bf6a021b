"""What a checkpoint costs: seconds that training waits, seconds until it is on the disk, bytes; and the time from start to first step.

    python benchmarks/checkpoint.py --folder /scratch/somewhere                       # base and xl, one process
    torchrun --nproc_per_node 2 benchmarks/checkpoint.py --folder … --cases base:64   # the same over ranks (without the resuming)

In each round four contenders take turns on the same tensors (the fp32 weights, both moments and the moving average of all three networks)
and on the same disk, in another order each round, so that whatever else the machine does strikes all alike:

    torch.save   a plain `torch.save` of them into one file a rank, and its fsync; training waits for all of it
    disk         the same number of bytes out of memory, written in order and fsynced: what the disk itself can do
    save         hires: blocked = until training may go on; commit = until the checkpoint is durable under its name, hashes and all

Ratios are medians over rounds of the ratio within a round. Resuming is a fresh process each time, from its start to the end of its first
optimizer step (batch 1): the newest checkpoint chosen and its hashes compared, networks built, state read. Nothing is asserted.
"""

import argparse
import datetime
import os
from pathlib import Path
import platform
import shutil
import statistics
import subprocess
import sys
import time

import torch
import torch.distributed as dist

from hires import config as configuration
from hires.checkpoints import reading, writing
from hires.checkpoints.retention import Policy
from hires.ground import distributed
from hires.training.game import Game
from hires.training.schedule import Schedule
from hires.training.settings import to_dict

ROUNDS = 5


def main() -> None:
    """Parse, measure case by case, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", required=True, help="on the disk to be measured; a folder in it is made and removed")
    parser.add_argument("--cases", default="base:64,xl:8", help="network:level, …")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--resumes", type=int, default=3)
    parser.add_argument("--resume-from", default="", help=argparse.SUPPRESS)  # what this program calls itself with
    args = parser.parse_args()
    cases = [(name, int(level)) for name, level in (case.split(":") for case in args.cases.split(","))]
    world = distributed.start(1 if not torch.cuda.is_available() else 0)
    if args.resume_from:
        resume(world, *cases[0], Path(args.resume_from))
        return
    folder = Path(args.folder) / "checkpoint-benchmark"
    if world.first:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(header(args, world), flush=True)
    dist.barrier()
    for name, level in cases:
        line = measure(world, folder, name, level, args)
        if world.first:
            print(line, flush=True)
    dist.barrier()
    if world.first:
        shutil.rmtree(folder)
    distributed.stop()


def measure(world, folder: Path, name: str, level: int, args) -> str:
    """One row of the table."""
    game, phase, config = build(world, name, level)
    parameters = sum(shape.numel() for player in game.players.values() for shape in player.shapes.values())
    tensors = writing._tensors(game.players, world.rank)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    noise = torch.randint(0, 256, (size,), dtype=torch.uint8).numpy()
    info = {"resolution": level, "fading": game.shape.fading, "alpha": phase.alpha, "zero_stage": config.zero.stage, "time": time.time()}
    info["config"] = to_dict(config)
    blocked, commit, plain, disk = [], [], [], []
    durable: list[float] = []
    with writing.Saver(folder / name, Policy(1), say=lambda _: durable.append(time.perf_counter())) as saver:

        def hires(number: int) -> None:
            began = together()
            saver.save(game.players, number, info)
            blocked.append(together() - began)
            saver.join()
            commit.append((durable[-1] if durable else time.perf_counter()) - began)  # rank 0 prints; what goes after that is deleting

        def torch_save(_: int) -> None:
            plain.append(timed(folder / f"plain-{world.rank}", lambda file: torch.save(tensors, file)))

        def write(_: int) -> None:
            disk.append(timed(folder / f"disk-{world.rank}", lambda file: in_order(file, memoryview(noise))))

        contenders = [hires, torch_save, write]
        hires(1)  # the first save takes its host memory and is told apart
        first = blocked.pop(), commit.pop()
        for number in range(args.rounds):
            for contender in contenders[number % 3 :] + contenders[: number % 3]:
                contender(number + 2)
    game.destroy()
    waits = statistics.median(b / p for b, p in zip(blocked, plain, strict=True))
    rate = statistics.median(d / c for d, c in zip(disk, commit, strict=True))
    seconds = [resumed(folder / name, name, level) for _ in range(args.resumes)] if world.size == 1 else []
    again = " ".join(f"{part} {statistics.median(s[part] for s in seconds):.1f}" for part in seconds[0]) if seconds else "–"
    whole = f"{statistics.median(sum(s.values()) for s in seconds):.1f} ({again})" if seconds else "–"
    median = statistics.median
    return (
        f"| {name} {level}x{level} | {parameters / 1e6:.1f} | {size * world.size / 1e6:,.0f} | {median(plain):.2f} | "
        f"{size * world.size / 1e6 / median(disk):,.0f} | {median(blocked):.3f} | {waits:.2f} | {median(commit):.2f} | {rate:.2f} | "
        f"{first[0]:.2f} | {whole} |"
    )


def build(world, name: str, level: int, checkpoint: reading.Checkpoint | None = None):
    """(game, phase, configuration) of a network at the beginning of a level of the celebahq schedule, batch 1 a rank."""
    batch = f"schedule.levels.{level}.batch={world.size}"
    overrides = ["experiment=celebahq_1024", f"network={name}", "run=none", "data.root=none", "train.precision=bf16", batch]
    config = configuration.load("train", overrides)
    schedule = Schedule(config.schedule)
    phase = schedule.at(next(row.start for row in schedule.levels if row.resolution == level))
    return Game(config, world, phase.shape, checkpoint), phase, config


def resume(world, name: str, level: int, folder: Path) -> None:
    """In a fresh process: what `hires train` does from its checkpoints to its first step; prints the seconds of each part."""
    choosing = time.perf_counter()
    checkpoint = reading.from_first_rank(folder)
    building = time.perf_counter()
    game, phase, config = build(world, name, level, checkpoint)
    stepping = time.perf_counter()
    pictures = torch.zeros(1, config.network.image_channels, level, level, dtype=torch.uint8)
    measures = game.round(phase, pictures)
    float(sum(measures.values()))  # waits for the device
    ended = time.perf_counter()
    print("SECONDS", building - choosing, stepping - building, ended - stepping, flush=True)
    os._exit(0)


def resumed(folder: Path, name: str, level: int) -> dict[str, float]:
    """Seconds of a resume's parts; `start` is what the process took besides: the interpreter and its imports."""
    command = [sys.executable, __file__, "--folder", str(folder), "--cases", f"{name}:{level}", "--resume-from", str(folder)]
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
    began = time.perf_counter()
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    whole = time.perf_counter() - began
    line = next(line for line in done.stdout.splitlines() if line.startswith("SECONDS"))
    choose, read, step = map(float, line.split()[1:])
    return {"start": whole - choose - read - step, "choose": choose, "build and read": read, "step": step}


def together() -> float:
    """The moment at which all ranks have come here."""
    if dist.get_world_size() > 1:
        dist.barrier()
    return time.perf_counter()


def timed(path: Path, write) -> float:
    """Seconds until `write(file)` is on the disk, on all ranks; the file is removed after it."""
    began = together()
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    ended = together()
    path.unlink()
    return ended - began


def in_order(file, data: memoryview) -> None:
    """All of it, in pieces as hires writes them."""
    for start in range(0, len(data), writing.CHUNK):
        file.write(data[start : start + writing.CHUNK])


def header(args, world) -> str:
    """Where and how this was measured, and the table's head."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    load = os.getloadavg()[0]
    where = f"{datetime.date.today()}, commit {commit}, {device}, {os.cpu_count()} cores, load {load:.1f} at the start"
    columns = ["state", "M parameters", "MB", "torch.save", "disk MB/s", "blocked", "of torch.save", "commit", "of the disk's rate"]
    columns += ["first save blocked", "resume to first step"]
    return "\n".join([
        f"{where}, {world.size} process(es), medians of {args.rounds} rounds; seconds",
        "",
        f"| {' | '.join(columns)} |",
        "|" + " --- |" * len(columns),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
