"""What holds the project together: pins, experiments, launch scripts and the commands that the README shows."""

from pathlib import Path
import re
import signal
import subprocess
import tomllib

import pytest

from hires import config as configuration
from hires.cli import VERBS
from hires.training import game
from hires.training.schedule import Schedule

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs/experiment").glob("*.yaml"))
SCRIPTS = [".ci/run", *sorted(str(path.relative_to(ROOT)) for folder in ("launch", "slurm") for path in (ROOT / folder).glob("*.sh"))]


def _pins(lines) -> dict[str, str]:
    """{normalised name: version} of requirement lines, each of which must be an exact pin."""
    pins = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;]+)", line)
        assert match, f"{line!r}: wanted name==version"
        pins[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return pins


def _constraints() -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return _pins(line for line in lines if line)


def test_every_dependency_is_pinned_to_the_version_of_the_constraints():
    """pyproject and constraints.txt name one version of each direct dependency; DALI is an extra, which the tests take too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = _pins([*project["dependencies"], *project["optional-dependencies"]["test"]])
    constraints = _constraints()
    assert {name: constraints.get(name) for name in direct} == direct
    assert set(project["optional-dependencies"]["dali"]) <= set(project["optional-dependencies"]["test"])


def test_constraints_are_not_bound_to_one_machine():
    """No local build of torch (+cpu), and no CUDA package but DALI's own, which only a GPU build of torch takes."""
    dali = {f"nvidia-{name}" for name in ("dali-cuda130", "libnvcomp-cu13", "nvimgcodec-cu13", "nvjpeg", "nvjpeg2k-cu13", "nvtiff-cu13")}
    for name, version in _constraints().items():
        assert "+" not in version, f"{name}=={version}"
        assert name in dali or not name.startswith(("nvidia-", "triton", "cuda-")), name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_composes_and_its_schedule_resolves(name):
    """Each experiment is a whole training configuration that a single process could start."""
    config = configuration.load("train", [f"experiment={name}", "run=x", "data.root=y"])
    schedule = Schedule(config.schedule)
    game.check(config, schedule, 1)
    assert schedule.total > 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_parses(script):
    """`bash -n` finds nothing wrong."""
    done = subprocess.run(["bash", "-n", ROOT / script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_launch_script_runs_without_slurm_and_hands_its_settings_on(tmp_path):
    """The one command of launch/celebahq_1024.sh, with a `python` and an `nvidia-smi` that only say how they were called."""
    done = _launch(tmp_path, {}, "train.max_images=6M")
    assert (done.returncode, done.stdout) == (85, "python -m hires train experiment=celebahq_1024 train.max_images=6M\n"), done.stderr


def test_launch_script_requeues_a_job_that_was_saved_on_request(tmp_path):
    """Under Slurm: srun with the job's cpus per task; status 85 of its tasks is no failure to srun, and the job is requeued."""
    done = _launch(tmp_path, SLURM)
    assert done.stdout.splitlines() == [
        "srun --kill-on-bad-exit=1 --cpus-per-task=8",
        "python -m hires train experiment=celebahq_1024",
        "srun 0",
        "saved; job 7 goes back into the queue",
        "scontrol requeue 7",
    ], done.stderr
    assert done.returncode == 85


@pytest.mark.parametrize("status", [0, 1])
def test_launch_script_does_not_requeue_a_job_that_is_finished_or_failed(tmp_path, status):
    """Only status 85 asks for more."""
    done = _launch(tmp_path, SLURM, python=status)
    assert done.returncode == status
    assert "requeue" not in done.stdout


def test_task_hands_a_warning_on(tmp_path):
    """USR1 sent to srun's task reaches the command, whose status 85 becomes a mark and 0."""
    mark = tmp_path / "mark"
    script = 'trap "exit 85" USR1; echo ready; for i in $(seq 600); do sleep 0.1; done'
    command = ["bash", ROOT / "slurm/task.sh", mark, "bash", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as task:
        assert task.stdout.readline() == "ready\n"
        task.send_signal(signal.SIGUSR1)
        try:
            assert task.wait(60) == 0
        finally:
            task.kill()
    assert mark.read_text() == "saved\n"


SLURM = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_CPUS_PER_TASK": "8", "SLURM_SUBMIT_DIR": str(ROOT)}


def _launch(folder: Path, environment: dict[str, str], *settings: str, python: int = 85) -> subprocess.CompletedProcess:
    """Run the launch script with stand-ins for every program that it starts; python ends with the given status, srun with its task's."""
    stand_ins = {
        "python": f'echo "python $*"; exit {python}',
        "srun": 'echo "srun $1 $2"; shift 2; "$@"; status=$?; echo "srun $status"; exit $status',
        "scontrol": 'echo "scontrol $*"',
        "sleep": "exit 0",
        "nvidia-smi": "exit 9",
    }
    for name, script in stand_ins.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    venv = folder / "venv/bin"
    venv.mkdir(parents=True)
    (venv / "activate").write_text("")
    variables = {"PATH": f"{folder}:/usr/bin:/bin", "HIRES_VENV": str(folder / "venv"), **environment}
    command = ["bash", ROOT / "launch/celebahq_1024.sh", *settings]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("", "not found: install Python 3.11"),
        ('[ "$1" = --version ] && echo Python 3.9.2; exit 1', "Python 3.9.2 is too old: wanted Python 3.11"),
        ('case "$2" in *ensurepip*) exit 1;; esac', "apt-get install python3-venv"),
    ],
    ids=["no python", "old python", "no venv"],
)
def test_make_says_what_the_machine_lacks(tmp_path, script, said):
    """One line with the remedy, a non-zero status, and nothing made."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    python = tmp_path / "python"
    if script:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    done = subprocess.run(["make", "demo", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert said in done.stderr
    assert not (tmp_path / ".venv").exists()


def _readme_commands() -> list[str]:
    """The indented command lines of the README, without their remarks."""
    lines = (ROOT / "README.md").read_text().splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("    ")]


@pytest.mark.parametrize("command", _readme_commands())
def test_readme_command_exists(command):
    """Verbs are verbs, targets are targets, scripts and experiments are there, and every `key=value` is a setting of its verb."""
    words = command.split()
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
    elif words[0] == "sbatch":
        assert (ROOT / words[1]).is_file()
    else:
        assert "hires" in words, command
        verb, *settings = words[words.index("hires") + 1 :]
        assert verb in VERBS
        configuration.load(verb, settings)  # raises for an unknown key or a missing one


def test_readme_links_exist():
    """Every file that the README links to is in the repository."""
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
