"""The cluster in a box: it is a real Slurm with nodes and GPUs, jobs come back, and nothing stays behind.

Preemption and nodes without power: tests/slurm/test_jobs.py, with jobs that train.
"""

import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BOX = ROOT / "slurm/cluster"

# a job that says which run of it this is, and where, and never ends by itself
WAITS = 'echo "run ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST"\ntrap "echo warned" USR1\nwhile :; do sleep 0.2; done\n'


def test_every_node_is_idle(cluster):
    """As soon as `up` returns."""
    assert cluster.nodes() == {"n1": "idle", "n2": "idle"}


def test_srun_reaches_both_nodes(cluster):
    """Each is a host of its own that knows the other by name, or, without namespaces, at least a node of its own."""
    if isolation(cluster) == "ports":
        said = cluster.run("srun", "--nodes=2", "printenv", "SLURMD_NODENAME")
    else:
        said = cluster.run("srun", "--nodes=2", "bash", "-c", "getent hosts n1 n2 >/dev/null && hostname")
    assert sorted(said.split()) == ["n1", "n2"]


def test_nodes_have_their_own_shared_memory(cluster):
    """Processes on two nodes cannot meet in /dev/shm, as on real ones."""
    if isolation(cluster) == "ports":
        pytest.skip("nodes are not isolated on this machine")
    said = cluster.run("srun", "--nodes=2", "bash", "-c", "touch /dev/shm/$(hostname); sleep 0.5; ls /dev/shm")
    assert sorted(said.split()) == ["n1", "n2"]


def test_job_sees_the_gpus_it_asked_for(cluster):
    """CUDA_VISIBLE_DEVICES on each node, as Slurm sets it for real GPUs; two jobs on one node get different ones."""
    said = cluster.run("srun", "--nodes=2", "--gpus-per-node=3", "printenv", "CUDA_VISIBLE_DEVICES")
    assert said.split() == ["0,1,2", "0,1,2"]
    first = cluster.submit("--nodelist=n1", "--gpus-per-node=6", cluster.script(WAITS))
    cluster.wait(first, "RUNNING")
    assert cluster.run("srun", "--nodelist=n1", "--gpus-per-node=2", "printenv", "CUDA_VISIBLE_DEVICES").split() == ["6,7"]


@pytest.mark.parametrize(("gpus", "nodes", "fits"), [(8, 2, True), (9, 1, False), (8, 3, False)])
def test_only_what_fits_is_accepted(cluster, gpus, nodes, fits):
    """`sbatch --test-only` answers without running anything."""
    options = ["--test-only", f"--gpus-per-node={gpus}", f"--nodes={nodes}"]
    done = subprocess.run(["sbatch", *options, cluster.script("true\n")], env=cluster.env, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == fits, done.stderr


def test_requeued_job_runs_again(cluster):
    """With the restart counted and one log for both runs."""
    number = cluster.submit("--requeue", cluster.script(WAITS))
    cluster.wait(number, "RUNNING")
    cluster.until(lambda: "run 0" in cluster.output(number))
    cluster.run("scontrol", "requeue", number)
    cluster.wait(number, "RUNNING", restarts=1)
    cluster.until(lambda: "run 1" in cluster.output(number))
    assert "run 0" in cluster.output(number)


@pytest.mark.parametrize("kind", ["namespaces", "ports"])
def test_down_leaves_nothing(fresh, cluster, kind):
    """With a job running; also after the daemons were killed, which the next `up` clears away. Another cluster goes on undisturbed."""
    if kind == "namespaces" and isolation(cluster) == "ports":
        pytest.skip("nodes are not isolated on this machine")
    with fresh(isolation=kind) as second:
        links = interfaces(second)
        assert len(links) == (kind == "namespaces")
        run_for_ever(second)
        for pid, name in processes(second.folder).items():
            if name in ("munged", "slurmctld", "slurmscriptd", "slurmd"):
                os.kill(pid, signal.SIGKILL)
        second.until(lambda: "slurmctld" not in processes(second.folder).values())
        assert "removing what a killed cluster left" in call("up", f"folder={second.folder}", f"isolation={kind}").stderr
        assert second.nodes() == {"n1": "idle", "n2": "idle"}
        assert second.run("squeue", "--noheader") == ""
        links |= interfaces(second)
    assert processes(second.folder) == {}
    assert links & set(os.listdir("/sys/class/net")) == set()
    assert str(second.folder) not in Path("/proc/self/mounts").read_text()
    assert not second.folder.exists()
    assert cluster.nodes() == {"n1": "idle", "n2": "idle"}


def test_up_touches_no_folder_of_others(tmp_path):
    """Neither `up` nor `down`."""
    (tmp_path / "precious").touch()
    for verb in ("up", "down"):
        done = call(verb, f"folder={tmp_path}")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert str(tmp_path) in done.stderr
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["up", "node=2"], "node=2: no such setting"),
        (["up", "nodes=0"], "nodes=0: wanted a number from 1 to 200"),
        (["up", "isolation=some"], "isolation=some: wanted namespaces or ports"),
        (["up", "folder=/a b"], "folder=/a b: wanted a path"),
        (["status", "folder=/nowhere"], "/nowhere: no cluster there"),
        (["up", "nodes=2", "now"], "slurm/cluster down"),
    ],
)
def test_wrong_command_is_told(words, said):
    """With what was found and what was wanted."""
    done = call(*words)
    assert done.returncode in (1, 2)
    assert said in done.stderr


def test_a_machine_that_cannot_have_it_is_told(tmp_path):
    """Neither Slurm nor apt: one line and status 3, for which the tests are skipped."""
    shutil.copytree(ROOT / "slurm", tmp_path / "slurm")  # away from packages that are already unpacked
    folder = f"/tmp/hires-test-{os.getpid()}-never"
    code = f"import box.packages as p; p.SYSTEM = ''; from box.commands import main; raise SystemExit(main(['up', 'folder={folder}'], ''))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "slurm", env={"PATH": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].endswith("its packages are fetched on Debian and Ubuntu alone: no apt-get here")
    assert not Path(folder).exists()


def call(*words: str) -> subprocess.CompletedProcess:
    """`slurm/cluster` with these words."""
    return subprocess.run([sys.executable, BOX, *words], capture_output=True, text=True, check=False, timeout=60)


def isolation(cluster) -> str:
    """namespaces, or ports where this machine allows no more."""
    return json.loads((cluster.folder / "box.json").read_text())["isolation"]


def interfaces(cluster) -> set[str]:
    """The host's network interfaces with the controller's address."""
    address = re.search(r"SlurmctldHost=.*\((.*)\)", (cluster.folder / "slurm.conf").read_text())[1]
    lines = subprocess.run(["ip", "-o", "-4", "address"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[1] for line in lines if f" {address}/24 " in line}


def processes(folder: Path) -> dict[int, str]:
    """{process id: name} of those whose environment or command line names the folder; this process's does not."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(folder) in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                found[int(entry.name)] = (entry / "comm").read_text().strip()
        except OSError:  # it has ended
            continue
    return found


def run_for_ever(cluster) -> None:
    """A job on both nodes whose processes have an empty environment and a session of their own."""
    ever = f"env -i setsid --wait bash -c ': {cluster.folder}/ever; sleep 100000 & wait'"
    cluster.submit("--nodes=2", cluster.script(f"srun --nodes=2 {ever}\n"))
    cluster.until(lambda: list(processes(f"{cluster.folder}/ever").values()).count("bash") == 2)
