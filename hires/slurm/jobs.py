"""What a Slurm job notes beside its run, in RUN/slurm/JOB.json, and what follows from it: whether it may start, and start again.

A run belongs to its folder; a job is only somebody who works on it for a while. Progress is the images of the newest checkpoint.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
import json
from pathlib import Path
import time

from hires.checkpoints import reading
from hires.errors import HiresError
from hires.ground.outside import Number, parse, problem
from hires.training.schedule import Schedule
from hires.training.settings import RunConfig

FAILURES = 10  # most requeues of a job that fails (HIRES_REQUEUES)
IDLE_STARTS = 5  # starts in a row from the same checkpoint, whatever ended them, after which a job is not started again


@dataclass
class Start:
    """One life of a job: from a start to its end or its requeue."""

    restart: int  # SLURM_RESTART_COUNT
    images: int  # of the newest checkpoint then
    nodes: str
    processes: int
    time: float


@dataclass
class Record:
    """One job's work on a run."""

    job: str
    name: str
    log: str
    starts: list[Start] = field(default_factory=list)
    failures: int = 0  # after which it was requeued


START = {"restart": int, "images": int, "nodes": str, "processes": int, "time": Number}
RECORD = {"job": str, "name": str, "log": str, "starts": [START], "failures?": int}


def images(run: Path) -> int:
    """Of a run's newest checkpoint, by its name; 0 where there is none."""
    found = reading.complete(run / "checkpoints")
    return int(found[-1].name.removeprefix("images-")) if found else 0


def path(run: Path, job: str) -> Path:
    """Where a job's record lies."""
    return run / "slurm" / f"{job}.json"


def read(file: Path) -> Record | None:
    """A record; None where no file can be read."""
    try:
        content = parse(file.read_bytes())
        if problem(content, RECORD):
            return None
        return Record(**content | {"starts": [Start(**start) for start in content["starts"]]})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(run: Path, record: Record) -> None:
    """Put a record in place, whole."""
    file = path(run, record.job)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
    temporary.rename(file)


def begin(run: Path, env: Mapping[str, str]) -> Record:
    """Note a start of this job; raises HiresError where its last ones brought nothing new."""
    job, restart = env["SLURM_JOB_ID"], int(env.get("SLURM_RESTART_COUNT") or 0)
    record = read(path(run, job)) if restart else None  # at its first start, what lies there is of a job of an older cluster
    record = record or Record(job, env.get("SLURM_JOB_NAME", ""), f"logs/{env.get('SLURM_JOB_NAME', '')}-{job}.log")
    now, idle = images(run), 0
    for start in reversed(record.starts):
        if start.images != now:
            break
        idle += 1
    if idle >= IDLE_STARTS:
        raise HiresError(f"run={run}: still at {now:,} images after {idle} starts of job {job}; what ended them is in {record.log}")
    nodes, processes = env.get("SLURM_JOB_NODELIST", ""), int(env.get("SLURM_NTASKS") or 1)
    record.starts.append(Start(restart, now, nodes, processes, time.time()))
    write(run, record)
    return record


def after_failure(run: Path, status: int, env: Mapping[str, str]) -> tuple[bool, str]:
    """Whether a job that ended with `status` is to go back into the queue, and why, or why not."""
    limit = int(env.get("HIRES_REQUEUES") or FAILURES)
    job, failed = env["SLURM_JOB_ID"], f"failed with status {status}"
    record = read(path(run, job))
    other = owner(run)
    if record is None:
        return False, f"{failed}; {path(run, job)} is gone"
    if other and other != job:
        return False, f"{failed}: {run} is being trained by {f'job {other}' if other.isdecimal() else other}"
    begun, now = record.starts[-1].images, images(run)
    if now <= begun:
        return False, f"{failed} without a new checkpoint (still {now:,} images), and would fail again"
    if record.failures >= limit:
        return False, f"{failed}, after {record.failures} requeued failures (HIRES_REQUEUES={limit})"
    record.failures += 1
    write(run, record)
    return True, f"{failed} at {now:,} images or more, {now - begun:,} beyond its start; failure {record.failures} of at most {limit}"


def chain(config: RunConfig, tasks: int) -> list[tuple[int, int]]:
    """(nodes, images at its end) of each job that slurm/chain is to submit, with `tasks` processes a node; none for what the run has seen.

    Raises HiresError where schedule.nodes_at is empty, or a batch does not divide over the processes of one of the jobs.
    """
    schedule = Schedule(config.schedule)
    end = schedule.end(config.train.max_images)
    if not schedule.nodes_at:
        raise HiresError("schedule.nodes_at is empty: wanted levels and numbers of nodes such as 4:1,64:2; for one number take sbatch")
    jobs: list[tuple[int, int]] = []
    for level in schedule.levels:
        nodes = schedule.nodes(level.resolution)
        if min(level.end, end) <= max(level.start, images(Path(config.run))):
            continue
        schedule.check_world(nodes * tasks)
        if jobs and jobs[-1][0] == nodes:
            jobs.pop()
        jobs.append((nodes, min(level.end, end)))
    return jobs


def owner(run: Path) -> str:
    """The Slurm job that holds a run's folder, else the process; empty where nobody does. A dead one's lock may still be there."""
    for lock in run.glob(".running-*"):
        try:
            there = parse(lock.read_bytes())
            return str(there["job"] or f"process {there['pid']} on {there['host']}")
        except (OSError, ValueError, KeyError, TypeError):
            continue  # released, or just being made
    return ""
