"""Whether a job may start, and start again: decided by the images that its run has saved, noted beside the run."""

import json

import pytest

from hires.checkpoints import reading
from hires.errors import HiresError
from hires.slurm import jobs

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "name", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "16"}


def saved(run, images):
    """A checkpoint as far as its name goes."""
    folder = run / "checkpoints" / reading.folder_name(images)
    folder.mkdir(parents=True)
    (folder / reading.MANIFEST).write_text("{}")


def restarted(count):
    return JOB | {"SLURM_RESTART_COUNT": str(count)}


def test_start_is_noted_beside_the_run(tmp_path):
    """With what it began from; the next one is added."""
    jobs.begin(tmp_path, JOB)
    saved(tmp_path, 300)
    jobs.begin(tmp_path, restarted(1))
    starts = jobs.read(jobs.path(tmp_path, "7")).starts
    assert [(start.restart, start.images) for start in starts] == [(0, 0), (1, 300)]
    assert {(start.nodes, start.processes) for start in starts} == {("n[1-2]", 16)}


def test_number_that_another_job_had_before_is_no_restart(tmp_path):
    """A new cluster counts from 1 again."""
    for count in range(3):
        jobs.begin(tmp_path, restarted(count))
    assert len(jobs.begin(tmp_path, JOB).starts) == 1


def test_failure_after_a_new_checkpoint_is_requeued(tmp_path):
    jobs.begin(tmp_path, JOB)
    saved(tmp_path, 300)
    again, why = jobs.after_failure(tmp_path, 1, JOB)
    assert again and why == "failed with status 1 at 300 images or more, 300 beyond its start; failure 1 of at most 10"


def test_failure_without_a_new_checkpoint_is_not_requeued(tmp_path):
    """What was saved before this start does not count."""
    saved(tmp_path, 300)
    jobs.begin(tmp_path, JOB)
    again, why = jobs.after_failure(tmp_path, 1, JOB)
    assert not again and "without a new checkpoint (still 300 images)" in why


def test_unfinished_checkpoint_is_no_progress(tmp_path):
    """Without its manifest it is none."""
    jobs.begin(tmp_path, JOB)
    (tmp_path / "checkpoints" / reading.folder_name(300)).mkdir(parents=True)
    assert not jobs.after_failure(tmp_path, 1, JOB)[0]


def test_failures_are_requeued_only_so_often(tmp_path):
    """HIRES_REQUEUES, progress or not."""
    env = JOB | {"HIRES_REQUEUES": "2"}
    answers = []
    for count in range(3):
        jobs.begin(tmp_path, env | {"SLURM_RESTART_COUNT": str(count)})
        saved(tmp_path, 100 * (count + 1))
        answers.append(jobs.after_failure(tmp_path, 1, env))
    assert [again for again, _ in answers] == [True, True, False]
    assert "after 2 requeued failures (HIRES_REQUEUES=2)" in answers[-1][1]


def test_starts_that_bring_nothing_end(tmp_path):
    """However they were ended: by preemption, time, or a failed node. One new checkpoint, and they count from there."""
    for count in range(jobs.IDLE_STARTS):
        jobs.begin(tmp_path, restarted(count))
    with pytest.raises(HiresError, match=r"still at 0 images after 5 starts of job 7; what ended them is in logs/name-7.log"):
        jobs.begin(tmp_path, restarted(jobs.IDLE_STARTS))
    saved(tmp_path, 100)
    jobs.begin(tmp_path, restarted(jobs.IDLE_STARTS))


def test_job_that_another_keeps_from_the_run_is_not_requeued(tmp_path):
    """Though the run gets on, by the other's work; one's own lock, left by a kill, is none of another's."""
    jobs.begin(tmp_path, JOB)
    saved(tmp_path, 300)
    lock = tmp_path / ".running-1"
    lock.write_text(json.dumps({"job": "6", "pid": 1, "host": "n1"}))
    assert jobs.after_failure(tmp_path, 1, JOB) == (False, f"failed with status 1: {tmp_path} is being trained by job 6")
    lock.write_text(json.dumps({"job": "7", "pid": 1, "host": "n1"}))
    assert jobs.after_failure(tmp_path, 1, JOB)[0]
