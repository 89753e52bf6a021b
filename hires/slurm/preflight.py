"""Before a job trains: does every node see its GPUs, the data, the run's folder and the same code, and do they reach each other?

`python -m hires.slurm.preflight SETTINGS…` runs on every task, as the training will (slurm/job.sh). Each node says one line; a problem
is reported with the node's name; the last line says what the job is. The status is 1 where something is wrong.
"""

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
import hashlib
from importlib.metadata import version
import os
from pathlib import Path
import platform
import shutil
import socket
import subprocess
import sys
import time

import torch
import torch.distributed as dist

from hires import config as configuration
from hires.errors import HiresError
from hires.ground import distributed
from hires.ground.distributed import World
from hires.ground.terminal import speak_utf8
from hires.slurm import jobs
from hires.training.settings import RunConfig
from pipelines import DataError

ROOT = Path(__file__).resolve().parents[2]
MEET = timedelta(minutes=2)  # how long the processes wait for each other


def main(overrides: list[str]) -> int:
    """Check, tell, and note the start beside the run."""
    os.environ.update(distributed.environment(dict(os.environ)))
    world = _world()
    found = look(overrides, world)
    if os.environ.get("SLURM_LOCALID", "0") == "0" and not found["problem"]:
        parts = [found["gpus"], found["data"], f"run {found['run']}", f"hires {found['code']}"]
        print(f"preflight {found['node']}: {', '.join(parts)}", flush=True)
    try:
        # gloo for the talk: it works on a node that has lost its GPUs too
        dist.init_process_group("gloo", timeout=MEET)
        everyone = distributed.gather(found)
        for check in (see_folder, reach_each_other):
            if not any(each["problem"] for each in everyone):
                found["problem"] = check(found, world)
                everyone = distributed.gather(found)
        problems = differences(everyone)
        if world.first and not problems:
            problems = [f"{found['node']}: error: {why}"] if (why := conclude(everyone)) else []
        if world.first and problems:
            print("\n".join(f"preflight {problem}" for problem in problems), flush=True)
        return int(distributed.from_first(bool(problems)))
    except RuntimeError as error:  # of torch's stores, groups and devices
        own = found["problem"] or f"the {world.size} processes do not reach each other: {str(error).splitlines()[0]}"
        print(f"preflight {found['node']}: error: {own}", flush=True)
        return 1
    finally:
        distributed.stop()


def _world() -> World:
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    count = torch.cuda.device_count()
    return World(rank, size, local, torch.device("cuda", local % count) if count else torch.device("cpu"))


def look(overrides: list[str], world: World) -> dict:
    """What this process sees by itself: facts in words, and the first problem."""
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    versions = f"python {platform.python_version()}, torch {version('torch')}, deepspeed {version('deepspeed')}"
    found = {"node": node, "code": code(), "versions": versions, "gpus": "", "data": "", "run": "", "sum": "", "note": "", "problem": ""}
    try:
        config = configuration.load("train", overrides)
        found["run"] = config.run
        found["gpus"] = gpus(world)
        found["data"] = data(config, world)
        found["note"] = note(config)
    except (HiresError, DataError) as error:
        found["problem"] = str(error)
    except (RuntimeError, OSError) as error:  # a GPU that answers no more, a file server that is away
        found["problem"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found


def gpus(world: World) -> str:
    """'8 GPUs (NVIDIA H200)'; raises HiresError where there are not as many as Slurm gave, or HIRES_GPUS says."""
    here, tasks = torch.cuda.device_count(), int(os.environ.get("SLURM_NTASKS_PER_NODE") or 0)
    wanted = int(os.environ.get("HIRES_GPUS") or os.environ.get("SLURM_GPUS_ON_NODE") or 0)
    alone = here == 1 and tasks == wanted  # --gpus-per-task=1 shows each task its own
    if here != wanted and not alone:
        raise HiresError(f"{here} GPUs visible, wanted {wanted}; for a job on CPUs set HIRES_GPUS=0")
    if not here:
        return "no GPUs"
    if tasks > here and not alone:
        raise HiresError(f"{tasks} tasks on {here} GPUs: wanted one task for each (--ntasks-per-node={here})")
    torch.cuda.set_device(world.device)  # DALI's stream, which the data are checked with, is on the current one
    torch.ones(1, device=world.device).add_(1).item()  # this process's own works
    return f"{wanted} GPUs ({torch.cuda.get_device_name(world.device)})"


def data(config: RunConfig, world: World) -> str:
    """'data data/celebahq of 29,000 pictures'; raises HiresError or DataError for any setting or data that the trainer would refuse."""
    from hires.evaluation.measuring import measures
    from hires.training.trainer import Trainer

    quiet = replace(config, monitor=replace(config.monitor, wandb="off"))
    return f"data {config.data.root} of {Trainer(quiet, world, measures).feed.shards.count('train'):,} pictures"


def note(config: RunConfig) -> str:
    """What schedule.nodes_at wants and this job is not: empty where it is, or where nothing is wanted."""
    here = int(os.environ.get("SLURM_JOB_NUM_NODES") or 1)
    wanted = {nodes for nodes, _ in jobs.chain(config, 1)} if config.schedule.nodes_at else set()
    if wanted <= {here}:
        return ""
    return f"schedule.nodes_at={config.schedule.nodes_at} is ignored by one job of {here}: slurm/chain submits a job for each"


def code() -> str:
    """Version, commit where there is one, and a digest of all sources and configurations, which tells copies with changes apart."""
    digest = hashlib.sha256()
    patterns = ("hires/**/*.py", "pipelines/**/*.py", "hires/configs/**/*.yaml")
    for file in sorted(file for pattern in patterns for file in ROOT.glob(pattern)):
        digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    commit = ""
    if shutil.which("git"):  # images often lack it
        git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        commit = f"commit {git.stdout.strip()}, " if git.returncode == 0 else ""
    return f"{version('hires')} ({commit}sources {digest.hexdigest()[:8]})"


def differences(everyone: list[dict]) -> list[str]:
    """What is wrong on some node, or not the same on all, in lines; on all ranks alike."""
    lines = [f"{nodes}: error: {problem}" for problem, nodes in _by("problem", everyone).items() if problem]
    for key in ("code", "versions", "data"):
        by = _by(key, everyone)
        if not lines and len(by) > 1:
            lines.append("error: not the same on all nodes: " + "; ".join(f"{nodes}: {value}" for value, nodes in by.items()))
    return lines


def _by(key: str, everyone: list[dict]) -> dict[str, str]:
    """The nodes, in words, by what they found."""
    nodes = defaultdict(dict)
    for found in everyone:
        nodes[found[key]][found["node"]] = True
    return {value: ", ".join(names) for value, names in nodes.items()}


def see_folder(found: dict, world: World) -> str:
    """What keeps this process from writing into the run's folder, or from seeing there what rank 0 wrote; a collective."""
    run = Path(found["run"])
    seen, own = run / ".preflight", run / f".preflight-{world.rank}"
    problem = _write(seen, run) if world.first else ""
    dist.barrier()
    if not world.first:
        problem = _write(own, run)
        if not problem:
            own.unlink()
        if not problem and not seen.exists():
            problem = f"run={run}: not the folder that rank 0 sees; wanted one on a file system that all nodes share"
    dist.barrier()
    if world.first and not problem:
        seen.unlink()
    return problem


def reach_each_other(found: dict, world: World) -> str:
    """What is wrong with a sum over all processes, on the GPUs where there are some; a collective."""
    group = dist.new_group(backend="nccl" if world.device.type == "cuda" else "gloo", timeout=MEET)
    ones = torch.ones(1, device=world.device)
    dist.all_reduce(ones.clone(), group=group)  # the first one connects them
    began = time.monotonic()
    dist.all_reduce(ones, group=group)
    total = ones.item()
    found["sum"] = f"an all-reduce takes {1000 * (time.monotonic() - began):.1f} ms"
    return "" if total == world.size else f"an all-reduce of ones over {world.size} processes gave {total:g}"


def _write(file: Path, run: Path) -> str:
    try:
        run.mkdir(parents=True, exist_ok=True)
        file.write_text("", encoding="utf-8")
    except OSError as error:
        return f"run={run}: cannot be written to: {error.strerror}"
    return ""


def conclude(everyone: list[dict]) -> str:
    """Note the start beside the run and say what the job is; returns what speaks against starting."""
    found, env = everyone[0], os.environ
    try:
        start = jobs.begin(Path(found["run"]), env).starts[-1]
    except HiresError as error:
        return str(error)
    processes, nodes = _count(len(everyone), "process", "processes"), _count(len({each["node"] for each in everyone}), "node", "nodes")
    print(
        f"job {env['SLURM_JOB_ID']} ({env.get('SLURM_JOB_NAME', '')}), restart {start.restart}: {processes} on {nodes} ({start.nodes}), "
        f"{found['gpus']}; hires {found['code']}, {found['versions']}; run {found['run']} at {start.images:,} images; {found['sum']}",
        flush=True,
    )
    if found["note"]:
        print(found["note"], flush=True)
    return ""


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


if __name__ == "__main__":
    speak_utf8()
    sys.exit(main(sys.argv[1:]))
