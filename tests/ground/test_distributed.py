"""Where a process learns its rank: torchrun's variables, srun's, or none; and JSON between ranks."""

from datetime import timedelta
import socket
import threading

import pytest
import torch

from hires.errors import HiresError
from hires.ground import distributed
from hires.ground.distributed import environment

SRUN = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node7"}


def test_torchruns_variables_are_taken_as_they_are_even_inside_slurm():
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    assert environment(torchrun | SRUN | {"HOME": "/"}) == torchrun


def test_srun():
    found = environment(dict(SRUN))
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], found["MASTER_ADDR"]) == ("5", "8", "1", "node7")
    assert 1024 < int(found["MASTER_PORT"]) < 65536


def test_all_tasks_of_a_job_meet_and_two_jobs_do_not():
    places = [environment(SRUN | {"SLURM_PROCID": str(rank)}) for rank in range(8)]
    assert len({(p["MASTER_ADDR"], p["MASTER_PORT"]) for p in places}) == 1
    assert environment(SRUN | {"SLURM_JOB_ID": "123457"})["MASTER_PORT"] != places[0]["MASTER_PORT"]
    assert len({environment(SRUN | {"SLURM_STEP_ID": str(step)})["MASTER_PORT"] for step in range(100)}) == 100  # steps side by side
    given = environment(SRUN | {"MASTER_ADDR": "head", "MASTER_PORT": "777"})
    assert (given["MASTER_ADDR"], given["MASTER_PORT"]) == ("head", "777")


def test_a_port_that_comes_free_is_waited_for_and_one_that_does_not_is_named():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HiresError, match=f"MASTER_PORT={port} of .*: another program listens there"):
            distributed.wait_for_port(port, 0.1)
        threading.Timer(0.7, taken.close).start()
        distributed.wait_for_port(port)


@pytest.mark.parametrize(
    "nodes,first",
    [
        ("n7", "n7"),
        ("a,b,c", "a"),
        ("n[03-07]", "n03"),
        ("n[3,5-7]", "n3"),
        ("gpu-n[003,010-012],x[1-2]", "gpu-n003"),
        ("login1,n[03-07]", "login1"),
        ("host.example.org", "host.example.org"),
        ("n[1-2]-ib,m3", "n1-ib"),
        ("rack[2-3]n[04-05]", "rack2n04"),
    ],
)
def test_the_first_host_of_slurms_list(nodes, first):
    assert environment(SRUN | {"SLURM_JOB_NODELIST": nodes})["MASTER_ADDR"] == first


def test_a_steps_own_nodes_come_before_the_jobs():
    assert environment(SRUN | {"SLURM_STEP_NODELIST": "n[08-09]", "SLURM_JOB_NODELIST": "n[01-09]"})["MASTER_ADDR"] == "n08"


def test_srun_without_hosts_is_refused_in_words():
    with pytest.raises(HiresError, match="MASTER_ADDR"):
        environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"})


@pytest.mark.parametrize("env", [{}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, {"SLURM_JOB_ID": "9"}, {"RANK": "3"}])
def test_a_single_process(env):
    found = environment(env)
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], found["MASTER_ADDR"]) == ("0", "1", "0", "127.0.0.1")
    assert int(found["MASTER_PORT"]) > 0


def test_gather_of_one_process(world):
    value = {"ä": [1, 2.5, None, "x"]}
    assert distributed.gather(value) == [value] and distributed.from_first(value) == value
    assert (world.rank, world.size, world.first) == (0, 1, True)


@pytest.mark.parametrize(("local_rank", "seen", "index"), [(3, 8, 3), (3, 1, 0), (5, 4, 1)])
def test_a_process_takes_its_own_gpu_also_where_it_sees_one_alone(monkeypatch, local_rank, seen, index):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    device = distributed.own_device(local_rank)
    assert taken == [device] and device.index == index


def test_groups_that_deepspeed_makes_wait_as_long_as_ours(world, make_player):
    """Its own have torch's default, which on nccl is as short as train.hang_timeout."""
    make_player("energy", stage=2)
    distributed.set_timeout(77 * 60)
    groups = list(torch.distributed.distributed_c10d._world.pg_map)
    assert len(groups) > 1
    make_player("energy", stage=2)
    later = {group._get_backend(torch.device("cpu")).options._timeout for group in torch.distributed.distributed_c10d._world.pg_map}
    assert later == {timedelta(minutes=77)}


@pytest.mark.parametrize(("size", "left"), [(1, True), (2, False)])
def test_an_error_is_told_before_a_group_of_several_is_left(monkeypatch, size, left):
    """Leaving can wait for peers in a collective; a single process leaves, and so does every one whose work is done."""
    calls = []
    monkeypatch.setattr(distributed, "start", lambda threads: distributed.World(0, size, 0, torch.device("cpu")))
    monkeypatch.setattr(distributed, "stop", lambda: calls.append("left"))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    with pytest.raises(HiresError), distributed.joined():
        raise HiresError("no such picture")
    assert bool(calls) == left
    with distributed.joined():
        pass
    assert calls[-1] == "left"
