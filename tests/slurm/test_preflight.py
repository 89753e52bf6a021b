"""What is checked before a job trains, beside what tests/slurm/test_jobs.py sees on a cluster."""

import sys

import pytest
import torch

from hires.errors import HiresError
from hires.ground.distributed import World
from hires.slurm import preflight

WORLD = World(0, 1, 0, torch.device("cpu"))
GOOD = {"node": "n1", "code": "0.1.0 (sources 1)", "versions": "torch 2", "data": "10 pictures", "problem": ""}


def test_gpus_that_slurm_gave_and_the_node_does_not_show_are_missed(monkeypatch):
    """With what to do where none are wanted; HIRES_GPUS=0 says so."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    with pytest.raises(HiresError, match=r"0 GPUs visible, wanted 8; .* set HIRES_GPUS=0"):
        preflight.gpus(WORLD)
    monkeypatch.setenv("HIRES_GPUS", "0")
    assert preflight.gpus(WORLD) == "no GPUs"


def test_more_tasks_than_gpus_are_refused(monkeypatch):
    """Two processes on one GPU would be slow at best."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    with pytest.raises(HiresError, match="8 tasks on 4 GPUs: wanted one task for each"):
        preflight.gpus(WORLD)


def test_tasks_that_see_one_gpu_each_are_accepted(monkeypatch):
    """--gpus-per-task=1: a task of eight sees one of the node's eight GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    assert preflight.gpus(WORLD) == "8 GPUs (a GPU)"


def test_alike_nodes_have_no_differences():
    assert preflight.differences([GOOD, GOOD | {"node": "n2"}]) == []


@pytest.mark.parametrize("key", ["code", "versions", "data"])
def test_nodes_that_differ_are_named(key):
    """With what each found: another copy of the project, another environment, another data set under the same name."""
    lines = preflight.differences([GOOD, GOOD | {"node": "n2", key: "other"}, GOOD | {"node": "n3"}])
    assert lines == [f"error: not the same on all nodes: n1, n3: {GOOD[key]}; n2: other"]


def test_problem_is_told_once_with_its_nodes():
    bad = GOOD | {"problem": "data.root=x: no such folder"}
    assert preflight.differences([bad, bad, bad | {"node": "n2"}, GOOD | {"node": "n3"}]) == ["n1, n2: error: data.root=x: no such folder"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "said"),
    [("run={folder}/file/run", "run={folder}/file/run: cannot be written to: Not a directory"), ("train.max_imagez=3", "max_imagez")],
    ids=["a run folder that cannot be written to", "no such setting"],
)
def test_what_cannot_start_is_told(setting, said, tiny, forks, clean_env, tmp_path):
    """One line with the node's name and the reason, status 1, and nothing left."""
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "hires.slurm.preflight", *tiny, f"run={tmp_path}/run", setting.format(folder=tmp_path)]
    env = clean_env | {"SLURMD_NODENAME": "n1", "SLURM_JOB_ID": "7"}
    done = forks.run(command, env=env, timeout=300)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "error" in line]
    assert line.startswith("preflight n1: error: ") and said.format(folder=tmp_path) in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
