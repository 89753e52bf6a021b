"""`hires slurm status`: how a run stands, from its folder, and its job from what scontrol says (here a stand-in)."""

import json
from pathlib import Path
import time

from omegaconf import OmegaConf
import pytest

from hires import config as configuration
from hires.checkpoints import reading
from hires.errors import HiresError
from hires.slurm import jobs
from hires.verbs import slurm as verb
from hires.verbs.slurm import Config as SlurmConfig

RUNNING = "JobId=7 JobName=name JobState=RUNNING Reason=None RunTime=01:02:03 TimeLimit=04:00:00 NodeList=n[1-2] StdOut=x"
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "name", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "16"}


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of 640 images at 4x4 and 1,280 at 8x8, as far as its configuration goes."""
    levels = ["schedule.levels.4.stable=640", "schedule.levels.8.fade=640", "schedule.levels.8.stable=640", "schedule.resolution=8"]
    batches = ["schedule.levels.4.batch=16", "schedule.levels.8.batch=16"]
    config = configuration.load("train", [*levels, *batches, "run=x", "data.root=y"])
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    return folder


def at(run: Path, images: int, resolution: int, alpha: float, **more: int) -> None:
    record = {"images": images, "resolution": resolution, "alpha": alpha, "seconds_per_kimg": 500.0, **more}
    event = {"images": images, "rollback": 1, "why": "no status"}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (record, event)) + '{"images": 99')


def status(run: Path, capsys) -> dict[str, str]:
    verb.run(SlurmConfig(run=str(run)))
    return {line[:11].strip(): line[11:] for line in capsys.readouterr().out.splitlines()}


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """scontrol(script): a stand-in, in front of all others."""

    def make(script: str) -> None:
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "scontrol").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return make


def test_without_slurm_and_without_a_job(run, capsys, monkeypatch):
    """Images, level, speed, time left and checkpoint are the folder's; nothing asks for Slurm."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert status(run, capsys) == {"run": str(run), "job": "none of Slurm's", "images": "0 of 1,920", "checkpoint": "none yet"}
    at(run, 1000, 8, 0.57)
    folder = run / "checkpoints" / reading.folder_name(960)
    folder.mkdir(parents=True)
    manifest = {"format": reading.FORMAT, "images": 960, "files": [], "time": time.time() - 90}
    (folder / reading.MANIFEST).write_text(reading.manifest_text(manifest))
    said = status(run, capsys)
    assert (said["images"], said["speed"], said["ETA"]) == ("1,000 of 1,920, 8x8, fading in (α 0.57)", "500.00 s/kimg", "7m 40s")
    assert said["checkpoint"].startswith(f"{folder}, 1m 3")


def test_time_left_is_not_guessed_beyond_the_level(run, capsys):
    """A higher level's speed is not known where the trainer measured none."""
    at(run, 320, 4, 1.0)
    assert status(run, capsys)["ETA"].startswith("2m 40s to this level's end; with train.trial=true")
    at(run, 320, 4, 1.0, eta_seconds=3900)
    assert status(run, capsys)["ETA"] == "1h 05m"
    at(run, 1920, 8, 1.0)
    assert status(run, capsys)["ETA"] == "done"


def test_job_that_runs(run, capsys, scontrol):
    """Its state and nodes from Slurm, its restarts and log from its record; of two jobs the one that holds the run."""
    jobs.begin(run, JOB)
    jobs.begin(run, JOB | {"SLURM_RESTART_COUNT": "1"})
    jobs.begin(run, JOB | {"SLURM_JOB_ID": "8"})
    (run / ".running-1").write_text(json.dumps({"job": "7", "pid": 1, "host": "n1"}))
    scontrol(f'[ "$*" = "-o show job 7" ] && echo "{RUNNING}"')
    said = status(run, capsys)
    assert said["job"] == "7 (name), RUNNING on n[1-2] for 01:02:03 of 04:00:00"
    assert said["restarts"] == "1, 0 of them after failures; the last start at 0 images, 16 processes on n[1-2]"
    assert said["log"] == "logs/name-7.log"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo JobName=name JobState=PENDING Reason=Priority", "7 (name), PENDING (Priority)"),
        ("echo JobName=name JobState=COMPLETED Reason=None", "7 (name), COMPLETED"),
        ("echo JobName=other JobState=RUNNING Reason=None", "7 (name), no longer known to Slurm"),
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", "7 (name), no longer known to Slurm"),
        ("echo Unable to contact slurm controller >&2; exit 1", "7 (name), scontrol: Unable to contact slurm controller"),
    ],
    ids=["waits", "done", "another's number", "forgotten", "no controller"],
)
def test_job_in_another_state(run, capsys, scontrol, script, said):
    jobs.begin(run, JOB)
    scontrol(script)
    assert status(run, capsys)["job"] == said


def test_no_run(tmp_path):
    with pytest.raises(HiresError, match="no run there"):
        verb.run(SlurmConfig(run=str(tmp_path)))
