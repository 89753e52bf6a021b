"""Where a launch script takes Python from: an image, an environment, modules; told in one line where it is not to be had.

No container runs here: stand-ins for apptainer and srun print how they were called.
"""

import os
from pathlib import Path
import subprocess

import pytest

ROOT = Path(__file__).parents[2]
SAY = '#!/bin/sh\n[ "$*" != --help ] || { echo "  --container-image=…"; exit; }\necho "$(basename "$0") $*"\n'


def launch(script: str, *settings: str, tools: Path, **variables: str) -> subprocess.CompletedProcess:
    """`bash launch/SCRIPT` with stand-ins in front of everything, away from GPUs and from Slurm."""
    env = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), **variables}
    command = ["bash", ROOT / "launch" / script, *settings]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def tools(tmp_path) -> Path:
    """A folder with a stand-in for apptainer and one for srun with pyxis."""
    for name in ("apptainer", "srun"):
        (tmp_path / name).write_text(SAY)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_image_file_is_run_by_apptainer(tools):
    """In the project's folder, which it sees, as it does HIRES_MOUNTS."""
    (tools / "hires.sif").touch()
    done = launch("cifar10.sh", "run=x", tools=tools, HIRES_IMAGE=f"{tools}/hires.sif", HIRES_MOUNTS="/sets:/sets")
    inside = f"apptainer exec --nv --bind {ROOT},/sets:/sets --pwd {ROOT} {tools}/hires.sif"
    assert done.stdout == f"{inside} python -m hires train experiment=cifar10 run=x\n", done.stderr


def test_other_image_is_run_by_pyxis(tools):
    """By srun, which starts each task in it."""
    done = launch("video.sh", "out=x.mp4", tools=tools, HIRES_IMAGE="registry/hires:1", SLURM_JOB_ID="7", SLURM_CPUS_ON_NODE="8")
    image = f"--container-image=registry/hires:1 --container-mounts={ROOT}:{ROOT} --container-workdir={ROOT}"
    assert done.stdout == f"srun {image} --nodes=1 --ntasks=1 --cpus-per-task=8 python -m hires video out=x.mp4\n", done.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HIRES_VENV": "/nowhere"}, "HIRES_VENV=/nowhere: no virtual environment there; make environment makes .venv"),
        ({"HIRES_MODULES": "cuda"}, "HIRES_MODULES=cuda: there is no command 'module' here"),
        ({"HIRES_IMAGE": "/nowhere.sif"}, "HIRES_IMAGE=/nowhere.sif: no such file"),
        ({"HIRES_IMAGE": "registry/hires:1"}, "HIRES_IMAGE=registry/hires:1: wants a Slurm job; without Slurm take a .sif file"),
    ],
)
def test_what_is_missing_is_told(tools, variables, said):
    """In the first line, with status 2, and nothing is run."""
    done = launch("cifar10.sh", tools=tools, **variables)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(said) and len(done.stderr.splitlines()) == 1


def test_a_fresh_clone_has_a_place_for_logs():
    """Slurm opens the log before the script runs, and where its folder is missing the job fails without a word."""
    for script in (ROOT / "launch").glob("*.sh"):
        for line in script.read_text().splitlines():
            assert not line.startswith("#SBATCH --output=") or line == "#SBATCH --output=logs/%x-%j.log"
    assert (ROOT / "logs/.gitignore").is_file()
