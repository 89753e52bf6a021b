"""`hires slurm status`."""

from dataclasses import dataclass
import math
from pathlib import Path
import re
import shutil
import subprocess
import time

from omegaconf import MISSING

from hires.checkpoints import reading
from hires.errors import HiresError
from hires.ground.ranges import setting
from hires.slurm import jobs
from hires.training.monitor import duration, read_records
from hires.training.settings import schedule_of, settings_of
from hires.verbs import Result


@dataclass
class Config:
    """hires slurm status: how a run and its Slurm job stand, from the run's folder and, where there is one, from Slurm.
      hires slurm status run=runs/celebahq_1024
    """

    run: str = MISSING
    action: str = setting("status", among=("status",))


@dataclass(frozen=True)
class Status(Result):
    """How a run and its Slurm job stand: what is printed, by name."""

    lines: dict[str, str]


def run(config: Config) -> Status:
    """Print how a run stands, in a few lines; works without Slurm too."""
    folder = Path(config.run)
    if not (folder / "config.yaml").is_file():
        raise HiresError(f"run={folder}: no run there (no config.yaml in it)")
    lines = {"run": str(folder), **job(folder), **progress(folder), "checkpoint": checkpoint(folder)}
    for name, text in lines.items():
        print(f"{name:<11}{text}")
    return Status(lines)


def job(folder: Path) -> dict[str, str]:
    """The job that holds the run, or else its last one: state, nodes, restarts, log."""
    files = sorted((folder / "slurm").glob("*.json"), key=lambda file: file.stat().st_mtime)
    records = [record for record in map(jobs.read, files) if record and record.starts]
    held = jobs.owner(folder)
    record = next((r for r in records if r.job == held), records[-1] if records else None)
    if record is None:
        return {"job": f"none of Slurm's; {held} trains, or did until it was killed" if held else "none of Slurm's"}
    last = record.starts[-1]
    told = f"{record.job} ({record.name}), {in_slurm(record.job, record.name)}"
    starts = f"{last.restart}, {record.failures} of them after failures; the last start at {last.images:,} images"
    return {"job": told, "restarts": f"{starts}, {last.processes} processes on {last.nodes}", "log": record.log}


def in_slurm(number: str, name: str) -> str:
    """A job's state, in words; a new cluster may have given its number to a job of another name."""
    if not shutil.which("scontrol"):
        return "Slurm is not available here"
    done = subprocess.run(["scontrol", "-o", "show", "job", number], capture_output=True, text=True, check=False)
    if done.returncode:
        gone = "Invalid job id" in done.stderr
        return "no longer known to Slurm" if gone else f"scontrol: {(done.stderr.strip() or 'no answer').splitlines()[-1]}"
    fields = dict(re.findall(r"(?:^|\s)([\w:/]+)=(\S*)", done.stdout))
    if fields["JobName"] != name:
        return "no longer known to Slurm"
    if fields["JobState"] == "RUNNING":
        return f"RUNNING on {fields['NodeList']} for {fields['RunTime']} of {fields['TimeLimit']}"
    return fields["JobState"] + (f" ({fields['Reason']})" if fields.get("Reason", "None") != "None" else "")


def progress(folder: Path) -> dict[str, str]:
    """Images seen and to be seen, speed, and what is left."""
    schedule, end = schedule_of(settings_of(folder))
    last = last_status(folder / "metrics.jsonl")
    level = next((level for level in schedule.levels if last and level.resolution == last["resolution"]), None)
    if last is None or level is None:  # the latter of another schedule than the folder's
        return {"images": f"{last['images'] if last else 0:,} of {end:,}"}
    images, speed, alpha = last["images"], last.get("seconds_per_kimg", math.nan), last.get("alpha", 1)
    fading = f", fading in (α {alpha:.2f})" if alpha < 1 else ""
    lines = {"images": f"{images:,} of {end:,}, {level.resolution}x{level.resolution}{fading}", "speed": f"{speed:.2f} s/kimg"}
    if images >= end:
        return lines | {"ETA": "done"}
    if "eta_seconds" in last:
        return lines | {"ETA": duration(last["eta_seconds"])}
    here = duration((min(level.end, end) - images) * speed / 1000)
    return lines | {"ETA": here if level.end >= end else f"{here} to this level's end; with train.trial=true also to the run's"}


def last_status(file: Path) -> dict | None:
    """The last progress line's record."""
    statuses = [record for _, record in read_records(file) if "resolution" in record] if file.exists() else []
    return statuses[-1] if statuses else None


def checkpoint(folder: Path) -> str:
    """The newest, and how old it is."""
    found = reading.complete(folder / "checkpoints")
    if not found:
        return "none yet"
    try:
        age = time.time() - reading.read_manifest(found[-1]).get("time", math.inf)
    except HiresError as error:
        return f"{found[-1]}: {error}"
    return f"{found[-1]}" + (f", {duration(age)} old" if age >= 0 else "")
