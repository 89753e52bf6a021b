"""One process among many: world size and rank from srun, torchrun or nothing, and the process group."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
import errno
import json
import logging
import os
import re
import socket
import sys
import time

import torch
import torch.distributed as dist

from hires.errors import HiresError
from hires.ground import machine

_timeout = 0.0  # seconds that collectives wait
START_MINUTES = 30  # how long the first rank waits for the last, and any for another in a collective


@dataclass(frozen=True)
class World:
    """Where this process stands."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True on rank 0."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """The rows of a global batch that this rank computes."""
        return slice(batch * self.rank // self.size, batch * (self.rank + 1) // self.size)


def environment(env: dict[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT out of torchrun's variables, srun's, or those of a single process.

    Raises HiresError when srun's variables do not name the first host.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        return {key: env[key] for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if key in env}
    if "SLURM_PROCID" in env and int(env.get("SLURM_NTASKS", 1)) > 1:
        address = env.get("MASTER_ADDR") or _first_host(env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", ""))
        # a port for each step of each job: no two of them that run beside each other on a node may meet
        job, step = (int(env.get(name) or 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        port = env.get("MASTER_PORT") or str(20000 + (job + 5003 * step) % 12000)
        return {
            "RANK": env["SLURM_PROCID"],
            "WORLD_SIZE": env["SLURM_NTASKS"],
            "LOCAL_RANK": env.get("SLURM_LOCALID", "0"),
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
        }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _first_host(nodes: str) -> str:
    if not nodes:
        raise HiresError("srun's variables name no host (SLURM_JOB_NODELIST is empty): set MASTER_ADDR to the first node")
    # 'n[03-07,9]-ib,m1': commas inside brackets belong to the first name; of each bracket its first number
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def wait_for_port(port: int, seconds: float = 60.0) -> None:
    """Return as soon as `port` of this host can be listened to; raises HiresError where it is still taken after `seconds`.

    A step that has just ended may hold it for a moment.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            with socket.create_server(("", port)):
                return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if time.monotonic() > end:
                where = f"MASTER_PORT={port} of {socket.gethostname()}"
                raise HiresError(f"{where}: another program listens there; set MASTER_PORT to a free port") from error
            time.sleep(0.5)


def start(threads: int = 0, timeout_minutes: float = START_MINUTES) -> World:
    """Join the process group (nccl with GPUs, gloo without) and say where this process stands."""
    ours = "RANK" not in os.environ  # torchrun has the port already
    os.environ.update(environment(dict(os.environ)))
    if ours and os.environ["RANK"] == "0":
        wait_for_port(int(os.environ["MASTER_PORT"]))
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if threads:
        torch.set_num_threads(threads)
    gpu = torch.cuda.is_available()
    device = own_device(local_rank)
    if gpu:
        os.environ["LOCAL_RANK"] = str(device.index)  # DeepSpeed takes it for the device: wrong where each task sees one GPU alone
        machine.exact_fp32()
    timeout = timedelta(minutes=timeout_minutes)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if gpu else "gloo", timeout=timeout)
    set_timeout(timeout.total_seconds())
    return World(rank, size, local_rank, device)


def own_device(local_rank: int) -> torch.device:
    """This process's GPU, from now on torch's current one; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


@contextmanager
def joined(threads: int = 0) -> Iterator[World]:
    """This process in the group, as `start` says; afterwards the process is as it was: group, environment, threads, GPU, DeepSpeed's log.

    A group that is there already is used, and stays. So does one of several processes where the block raises: tell the error, then end
    the process.
    """
    environment, before, own, hook = dict(os.environ), torch.get_num_threads(), not dist.is_initialized(), sys.excepthook
    gpu = torch.cuda.current_device() if torch.cuda.is_available() else None
    try:
        world = start(threads)
        log = logging.getLogger("DeepSpeed")
        level = log.level
        try:
            yield world
        except BaseException:
            # leaving the group can wait, on nccl for minutes, for peers that wait in a collective: the error must be reported first
            own = own and world.size == 1
            raise
        finally:
            log.setLevel(level)
    finally:
        if own:
            stop()
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(before)
        sys.excepthook = hook  # torch puts the rank before every line of a traceback
        if gpu is not None:
            torch.cuda.set_device(gpu)


def set_timeout(seconds: float = 0.0) -> None:
    """Collectives of every group there is wait for `seconds` from now on, or as long as was said last where that is longer.

    DeepSpeed makes groups of its own, with torch's default (10 minutes on nccl): call this after an engine is made.
    """
    global _timeout
    _timeout = max(_timeout, seconds)
    for group in dist.distributed_c10d._world.pg_map:
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=_timeout), group)


def stop() -> None:
    """Leave the process group; DeepSpeed forgets it too, so that another can be made."""
    global _timeout
    _timeout = 0.0
    if dist.is_initialized():
        comm = sys.modules.get("deepspeed.comm.comm")  # not imported for this: only sharded players need it
        (comm if comm and comm.cdb else dist).destroy_process_group()


def gather(value, group: dist.ProcessGroup | None = None) -> list:
    """Every rank's value (anything that JSON holds), in rank order, on every rank of the group; goes as JSON, never as a pickle."""
    size = dist.get_world_size(group)
    if size == 1:
        return [value]
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else torch.device("cpu")
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(size)]
    dist.all_gather(lengths, torch.tensor([len(text)], device=device), group=group)
    longest = max(int(n) for n in lengths)
    texts = [torch.zeros(longest, dtype=torch.uint8, device=device) for _ in range(size)]
    dist.all_gather(texts, torch.nn.functional.pad(text, (0, longest - len(text))), group=group)
    return [json.loads(t[: int(n)].cpu().numpy().tobytes()) for t, n in zip(texts, lengths, strict=True)]


def from_first(value):
    """Rank 0's value, on every rank."""
    return gather(value)[0]
