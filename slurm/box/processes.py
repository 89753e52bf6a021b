"""The processes of a cluster, found by what is written in their environment: nothing has to be remembered, and a crash forgets nothing."""

import contextlib
import os
from pathlib import Path
import signal
import subprocess
import time

from . import Failed

CLIENTS = {b"srun", b"salloc", b"sbatch"}  # started by people; they would wait for a cluster that is gone


def start(folder: Path, part: str, command: list[str], env: dict[str, str], **pipes: int) -> subprocess.Popen:
    """A daemon of the cluster's part `control`, `switch` or a node; its environment says so, and what it starts inherits that."""
    marked = env | {"HIRES_BOX": str(folder), "HIRES_BOX_PART": part}
    with open(folder / f"log/{part}.out", "ab") as log:
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | pipes
        return subprocess.Popen(command, env=marked, cwd=folder, start_new_session=True, **streams)


def find(folder: Path, part: str | None = None) -> set[int]:
    """Process ids of the cluster or of one part of it, with all that they have started. Processes that ended are not among them."""
    found, parents = set(), {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name, _, rest = (entry / "stat").read_bytes().partition(b"(")[2].rpartition(b")")
            environment = dict(item.partition(b"=")[::2] for item in (entry / "environ").read_bytes().split(b"\0"))
        except (OSError, ValueError):
            continue
        state, parent = rest.split()[:2]
        if state in b"ZX":
            continue
        parents[int(entry.name)] = int(parent)
        if _belongs(environment, name, os.fsencode(folder), part and part.encode()):
            found.add(int(entry.name))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def _belongs(environment: dict[bytes, bytes], name: bytes, folder: bytes, part: bytes | None) -> bool:
    if environment.get(b"HIRES_BOX") == folder:
        return part in (None, environment.get(b"HIRES_BOX_PART"))
    if environment.get(b"SLURM_CONF") != folder + b"/slurm.conf":
        return False
    node = environment.get(b"SLURMD_NODENAME")  # a job's processes have this
    return (node is not None and part in (None, node)) or (part is None and name in CLIENTS)


def kill(folder: Path, part: str | None = None) -> None:
    """End them at once, as a power failure would."""
    deadline = time.monotonic() + 20
    while pids := find(folder, part):
        if time.monotonic() > deadline:
            raise Failed(f"{folder}: processes {sorted(pids)} do not end")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
