"""The verdict says in words how a run stands and what went wrong in it."""

import json
import math
import os
import time

import pytest

from hires.report.verdict import judge
from hires.slurm import jobs
from tests.report.fabricate import checkpoint, opened, statuses, write


def test_a_run_that_went_well(tmp_path):
    verdict = judge(opened(write(tmp_path / "run")))
    assert (verdict.state, verdict.wrong, verdict.noted) == ("finished", [], [])
    assert verdict.headline == "1,000 of 1,000 images (100%), at 8×8; training itself took 30s"


def test_a_run_that_was_stopped_says_from_where_it_goes_on(tmp_path):
    folder = write(tmp_path / "run", statuses(600))
    checkpoint(folder, 500)
    verdict = judge(opened(folder))
    assert verdict.state == "stopped"
    assert "600 of 1,000 images (60%)" in verdict.headline and verdict.headline.endswith("the same command resumes from 500")


@pytest.mark.parametrize(
    ("age", "job", "state", "told"),
    [
        (0, "", "running", "by process 7 on there"),
        (9000, "", "stopped", "killed: process 7 on there"),
        (0, "123", "running", "by Slurm job 123"),
    ],
)
def test_a_lock_tells_whether_it_runs_by_its_last_sign_of_life(tmp_path, age, job, state, told):
    folder = write(tmp_path / "run", statuses(600))
    lock = folder / ".running-1"
    lock.write_text(json.dumps({"job": job, "pid": 7, "host": "there"}))
    os.utime(lock, (time.time() - age,) * 2)
    verdict = judge(opened(folder))
    assert verdict.state == state and told in verdict.headline


def test_nothing_trained_yet(tmp_path):
    assert judge(opened(write(tmp_path / "run", []))).state == "empty"


def _alarm(record):
    return record | ({"alarm": ["energy_gap"], "energy_gap": -record["images"] / 10.0} if record["images"] in (300, 400) else {})


@pytest.mark.parametrize(
    ("records", "told"),
    [
        (
            [*statuses(), {"images": 300, "rollback": 1, "why": "not finite at 350"}],
            "rollback 1, back to 300 images: not finite at 350",
        ),
        (list(map(_alarm, statuses())), "alarm from 300 to 400 images, level 4: energy_gap ran away, to −40"),
        (
            statuses(alarm=lambda images: ["energy_flat"] if images >= 700 else []),
            "level 8: the energy was flat",
        ),
        (statuses(R=lambda images: math.nan if images >= 700 else 1.0), "R was not a finite number, first at 700 images"),
        ([r for r in statuses() if r["images"] not in (500, 600)], "no progress line between 400 and 700 images"),
        (statuses(diversity=0.4), "diversity is 0.4, below 0.6"),
        (statuses(energy_size=4.9), "energy_size is 4.9, near 1/(2 λ_U) = 5"),
        (statuses(K=2.5), "K is 2.5, above 2"),
        (statuses(N=3.5), "N is 3.5, above 3"),
    ],
    ids=["rollback", "alarm", "flat", "nan", "hole", "diversity", "saturated", "K", "N"],
)
def test_what_went_wrong(tmp_path, records, told):
    wrong = judge(opened(write(tmp_path / "run", records))).wrong
    assert len(wrong) == 1 and told in wrong[0]


def test_damaged_checkpoints_are_named(tmp_path):
    folder = write(tmp_path / "run")
    checkpoint(folder, 400, damaged=True)
    checkpoint(folder, 300).rename(folder / "checkpoints" / "damaged-images-000000000300")
    checkpoint(folder, 500).rename(folder / "checkpoints" / ".images-000000000500.writing")  # no damage
    checkpoint(folder, 1000)
    assert judge(opened(folder)).wrong == [
        "checkpoint damaged-images-000000000300: set aside as damaged",
        "checkpoint images-000000000400: rank.safetensors is missing",
    ]


def test_resumes_pauses_and_changes(tmp_path):
    """A start is an event; time that training does not account for lies between checkpoints; their settings are compared."""
    starts = [{"images": 0, "start": 0, "processes": 1}, {"images": 500, "start": 9, "processes": 2}]
    folder = write(tmp_path / "run", [*statuses(), *starts])
    for images, when in ((300, 9.0), (500, 15.0), (1000, 15.0 + 15.0 + 3600.0)):  # 500 images take 15 s
        checkpoint(folder, images, when, train={"seed": images // 500})
    noted = judge(opened(folder)).noted
    assert noted[0] == "resumed once: at 500 images"
    assert noted[1] == "processes: 1, then 2"
    assert [line for line in noted if line.startswith("1h 00m without training between the checkpoints at 500 and 1,000")]
    assert "settings changed by 500 images: train.seed 0 → 1" in noted
    assert not any("300 and 500" in line for line in noted)


def test_the_best_checkpoint_is_named(tmp_path):
    """The lowest of the highest level that was measured."""
    folder = write(tmp_path / "run")
    for images, swd in ((400, 1.0), (700, 5.0), (800, 4.0), (1000, 6.0)):
        checkpoint(folder, images, measured={"swd": swd, "fidelity": None})
    assert judge(opened(folder)).noted == ["best checkpoint by swd: 800 images, 8×8 (4, lower is better)"]


def test_slurm_jobs_are_named(tmp_path):
    folder = write(tmp_path / "run")
    starts = [jobs.Start(k, 100 * k, "n1", 4, float(k)) for k in range(3)]
    jobs.write(folder, jobs.Record("17", "faces", "logs/faces-17.log", starts, failures=1))
    assert judge(opened(folder)).noted == ["Slurm job 17 (faces): started 3 times, 1 of them after failures, log logs/faces-17.log"]
