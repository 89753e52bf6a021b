"""What users submit, on a real Slurm: whatever disturbs a job, its run ends with the parameters of an undisturbed one.

Runs are tiny, on scikit-learn's digits, and long enough to be disturbed several times: growth at 320 images, stable from 640, the end
at 1,600. A start of a job takes seconds, so several disturbances happen to one job, and each is waited for, never slept for; a rank that is
stopped holds the run meanwhile.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import time

from omegaconf import OmegaConf
import pytest
import torch

from hires.checkpoints import reading
from hires.cli import main
from hires.slurm import jobs
from pipelines import PrepareConfig, SplitConfig, prepare

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LAUNCH = "launch/celebahq_1024.sh"
EARLY, GROWN, LATER, END = 160, 320, 480, 1600
PATIENCE = 600  # seconds after which an event is taken for lost
LENGTHS = [
    *("schedule.levels.4.stable=320", "schedule.levels.8.fade=320", "schedule.levels.8.stable=960", "train.checkpoint_every=160"),
    *("monitor.status_every=80", "optimizer.eps=1e-3"),
]

LASTING = "schedule.levels.4.stable=100k"  # for a run that is not to end by itself


class Project:
    """A folder such as a user has, with this project's scripts, and logs and runs of its own."""

    def __init__(self, folder: Path, cluster, settings: list[str]):
        self.folder, self.cluster, self.settings = folder, cluster, settings
        for name in ("launch", "slurm"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "logs").mkdir()
        self.env = cluster.env | {"HIRES_GPUS": "0"}  # the cluster's GPUs are none to torch

    def call(self, *words: object) -> str:
        """What a command that a user types in the folder prints."""
        command = list(map(str, words))
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sbatch(self, *words: object) -> int:
        """A job's number."""
        return int(self.call("sbatch", "--parsable", *words))

    def train(self, run: str, *settings: str, nodes: int = 2, options: tuple[str, ...] = ()) -> int:
        """Submit the launch script itself, with one process a node on the digits."""
        return self.sbatch(f"--nodes={nodes}", "--ntasks-per-node=1", *options, LAUNCH, *self.settings, f"run=runs/{run}", *settings)

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name

    def log(self, job: int | str, restart: int = 0) -> str:
        """What the job said from one of its starts on."""
        return self.cluster.output(job).partition(f"restart {restart}:")[2]

    def until(self, job: int | str, condition, every: float = 0.2) -> None:
        """Until a condition holds; fails where the job ends before, about which Slurm is asked less often: an answer costs processes."""
        ended, asked = ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), 0.0

        def holds() -> bool:
            nonlocal asked
            if time.monotonic() > asked + 2:
                assert self.cluster.job(job)["JobState"] not in ended, self.cluster.output(job)
                asked = time.monotonic()
            return condition()

        self.cluster.until(holds, PATIENCE, every)

    def until_it_trains(self, job: int | str, restart: int) -> None:
        """Until a start of the job has made steps."""
        self.until(job, lambda: " kimg " in self.log(job, restart))

    def until_it_saves(self, job: int | str, restart: int) -> None:
        """Until a start of the job has saved something, of its own accord."""
        self.until(job, lambda: re.search(r"^saved .*images-", self.log(job, restart), re.MULTILINE))

    def finish(self, job: int | str, restarts: int) -> None:
        """Wait for its end, which must be a good one, after just so many restarts."""
        self.until(job, lambda: self.cluster.job(job)["JobState"] == "COMPLETED", every=0.5)
        assert self.cluster.job(job)["Restarts"] == str(restarts)

    def trainer(self, job: int | str, rank: int) -> int:
        """The process that trains as a rank of a job, seen from outside its node."""
        wanted = {b"SLURM_CONF=" + os.fsencode(self.env["SLURM_CONF"]), b"SLURM_JOB_ID=%d" % job, b"SLURM_PROCID=%d" % rank}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"python" in words[0] and b"train" in words and wanted <= set((entry / "environ").read_bytes().split(b"\0")):
                    return int(entry.name)
            except OSError:
                continue
        return pytest.fail(f"job {job} has no process of rank {rank}")


@pytest.fixture(scope="module")
def project(clusters, tiny, tmp_path_factory) -> Project:
    return Project(tmp_path_factory.mktemp("project"), clusters(nodes=4, grace=120), [*tiny, *LENGTHS])


@pytest.fixture(scope="module")
def undisturbed(project, worlds) -> Path:
    """A run of two processes that no Slurm started."""
    run = project.run("undisturbed")
    worlds([(2, [["experiment=celebahq_1024", *project.settings, f"run={run}"]])])
    return run


def tensors(run: Path, images: int, fields: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Every parameter of the three networks in a checkpoint of a run."""
    checkpoint = reading.Checkpoint(run / "checkpoints" / reading.folder_name(images))
    keys = [(p, n, f) for p in ("generator", "energy", "inference") for f in fields for n in sorted(checkpoint.names(p))]
    return {f"{p}/{n}/{f}": checkpoint.read(p, n, f, 0, checkpoint.numel(p, n, f)) for p, n, f in keys}


def same_bits(a: Path, b: Path) -> None:
    """Parameters, moments and moving averages at the end, and a log that neither lacks nor repeats an image."""
    left, right = (tensors(run, END, reading.FIELDS) for run in (a, b))
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    records = [json.loads(line) for line in (b / "metrics.jsonl").read_text().splitlines()]
    images = [record["images"] for record in records if "resolution" in record]
    assert images == sorted(set(images)) and images[-1] == END


def distance(a: Path, b: Path, images: int) -> float:
    left, right = (tensors(run, images, ("weight", "ema")) for run in (a, b))
    assert left.keys() == right.keys()
    return max((left[key] - right[key]).abs().max().item() for key in left)


def waits_for(process: int, number: int) -> bool:
    """Whether a stopped process has been sent a signal."""
    sent = re.search(r"^ShdPnd:\s*(\w+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)[1]
    return bool(int(sent, 16) >> (number - 1) & 1)


@contextmanager
def held(project: Project, job: int, restart: int) -> Iterator[Callable[[], bool]]:
    """The run is not to end before Slurm looks at its clock, twice a minute, or at its queue; -> whether it was warned."""
    project.until_it_trains(job, restart)
    process = project.trainer(job, 1)
    os.kill(process, signal.SIGSTOP)
    yield lambda: waits_for(process, signal.SIGUSR1)
    os.kill(process, signal.SIGCONT)


def out_of_time(project: Project, job: int, restart: int) -> None:
    with held(project, job, restart) as warned:
        hours, minutes, _ = project.cluster.job(job)["RunTime"].split(":")
        # warned now, ended a minute later
        project.cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={int(hours) * 60 + int(minutes) + 2}")
        project.until(job, warned)
        project.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=UNLIMITED")


def preempted(project: Project, job: int, restart: int) -> None:
    with held(project, job, restart) as warned:
        urgent = project.sbatch("--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=true")
        project.until(job, warned)
    project.cluster.wait(urgent, "COMPLETED", seconds=PATIENCE)


def killed(project: Project, job: int, restart: int) -> None:
    project.until_it_saves(job, restart)
    os.kill(project.trainer(job, 1), signal.SIGKILL)


def hung(project: Project, job: int, restart: int) -> None:
    project.until_it_saves(job, restart)
    os.kill(project.trainer(job, 1), signal.SIGSTOP)
    project.until_it_trains(job, restart + 1)
    assert "rank 1 (host" in project.log(job, restart) and "stopped answering" in project.log(job, restart)


def without_power(project: Project, job: int, restart: int) -> None:
    """A node dies: the job goes on elsewhere."""
    cluster = project.cluster
    project.until_it_saves(job, restart)
    nodes = cluster.run("scontrol", "show", "hostnames", cluster.job(job)["NodeList"]).split()
    cluster.node("off", nodes[1])
    project.until_it_trains(job, restart + 1)
    assert nodes[1] not in cluster.run("scontrol", "show", "hostnames", cluster.job(job)["NodeList"]).split()
    assert cluster.nodes()[nodes[1]] == "down*"
    cluster.node("on", nodes[1])


@pytest.mark.campaign(1)
@pytest.mark.parametrize(
    ("first", "second", "failures"),  # the node's death is not the run's failure
    [(out_of_time, killed, 1), (preempted, without_power, 0), (killed, hung, 2)],
    ids=["out of time, killed", "preempted, without power", "killed, hung"],
)
def test_whatever_disturbs_it_a_job_comes_back_and_ends_as_ever(project, undisturbed, first, second, failures):
    """Warned at the end of its time or for a job of more priority, it saves one agreed checkpoint; it fails fast where a trainer is killed,
    hangs, or loses its node. Each time a requeue and a resume, and the end is bit for bit that of a run that nothing disturbed."""
    name, cluster = f"{first.__name__}-{second.__name__}", project.cluster
    job = project.train(name, *(["train.hang_timeout=15s"] if second is hung else []))
    first(project, job, 0)
    second(project, job, 1)
    project.finish(job, restarts=2)
    assert cluster.output(job).splitlines()[-1] == f"job {job}: done"
    same_bits(undisturbed, project.run(name))
    warnings = sum(event in (out_of_time, preempted) for event in (first, second))
    assert cluster.output(job).count("stopped by SIGUSR1") == cluster.output(job).count("saved; back into the queue") == warnings
    assert jobs.read(jobs.path(project.run(name), str(job))).failures == failures
    rank_1 = sorted(path.name for path in (project.folder / f"logs/celebahq_1024-{job}").iterdir())
    assert [name for name in rank_1 if name.startswith("rank")] == [f"rank-1-restart-{n}.log" for n in range(3)]


def test_bad_setting_fails_at_once(project):
    """In one line with the culprit and the nodes; nothing is made, nothing trained, nothing requeued."""
    job = project.train("bad", "schedule.levels.4.batch=15")
    assert project.cluster.wait(job, "FAILED", seconds=PATIENCE)["Restarts"] == "0"
    lines = [line for line in project.cluster.output(job).splitlines() if "error" in line]
    assert re.match(r"preflight n\d, n\d: error: schedule.levels.4.batch=15: not divisible", lines[0])
    assert "not requeued" in project.cluster.output(job) and not project.run("bad").exists()


def test_another_number_of_nodes_at_each_level(project, undisturbed, hires):
    """slurm/chain: a job for each number of nodes, here for a run begun on two, then one, then two again. The parameters are as far from
    of the run that had two all the time as another order of sums takes one process from itself, on this machine, over the same steps."""
    begun, settings = undisturbed / "checkpoints" / reading.folder_name(EARLY), (*project.settings, f"train.max_images={LATER}")
    for name in ("chain", "alone", "order"):
        shutil.copytree(begun, project.run(name) / "checkpoints" / begun.name)
    micro = ("schedule.levels.4.micro_batch=4", "schedule.levels.8.micro_batch=4")
    for name, more in (("alone", ()), ("order", micro)):
        done = hires("train", *settings, f"run={project.run(name)}", *more)
        assert done.returncode == 0, done.stderr
    said = project.call("slurm/chain", "--ntasks-per-node=1", LAUNCH, *settings, "run=runs/chain", "schedule.nodes_at=4:1,8:2")
    one, two = map(int, re.findall(r"^job (\d+): up to", said, re.MULTILINE))
    wanted = f"job {one}: up to {GROWN} images on 1 node\njob {two}: up to {LATER} images on 2 nodes, after job {one}\n"
    assert said == wanted
    project.finish(one, restarts=0)
    project.finish(two, restarts=0)
    assert "1 process on 1 node" in project.log(one) and "2 processes on 2 nodes" in project.log(two)
    assert f"job {one}: done" in project.log(one) and f"job {two}: done" in project.log(two)
    for images in (GROWN, LATER):
        rounding = max(distance(project.run("alone"), other, images) for other in (project.run("order"), undisturbed))
        assert distance(undisturbed, project.run("chain"), images) < max(4 * rounding, 1e-5)
        assert rounding < 1e-3  # another order of images is a hundred times as far


def test_measures_of_two_nodes_are_those_of_one_process(project, undisturbed):
    """`hires evaluate` under srun: the ranks draw and read their shares, and the numbers are the same."""
    data, alone = project.folder / "data/held", project.folder / "alone.json"
    prepare(PrepareConfig(source="digits", resolution=8, workers=1, out=str(data), split=SplitConfig(holdout=150)))
    settings = [f"run={undisturbed}", f"data={data}", "images=140", "measure=swd,reconstruction,diversity"]
    job = project.sbatch("--nodes=2", "--ntasks-per-node=1", "launch/evaluate.sh", *settings, f"out={project.folder / 'job.json'}")
    project.finish(job, restarts=0)
    assert main(["evaluate", *settings, f"out={alone}"]) == 0
    found, wanted = (json.loads(path.read_text()) for path in (project.folder / "job.json", alone))
    assert found.keys() == wanted.keys() and found["swd"] == pytest.approx(wanted["swd"], rel=1e-5)
    for measure in ("reconstruction_mse", "diversity"):
        assert found[measure] == pytest.approx(wanted[measure], rel=1e-6)


def test_array_of_parts_of_a_data_set(project):
    """Each task makes every second shard; the last to end completes, and the bytes are those of one process."""
    settings = ("source=digits", "resolution=8", "images_per_shard=100", "workers=1")
    job = project.sbatch("--array=1-2", "launch/prepare.sh", *settings, "out=data/array")
    project.finish(f"{job}_1", restarts=0)
    project.finish(f"{job}_2", restarts=0)
    prepare(PrepareConfig(source="digits", resolution=8, images_per_shard=100, workers=1, out=str(project.folder / "data/alone")))
    array, alone = (json.loads((project.folder / f"data/{name}/manifest.json").read_text()) for name in ("array", "alone"))
    assert array == alone and len(array["shards"]["train"]) == 18


def test_array_of_seeds_a_second_submission_and_scancel(project, hires):
    """A run for each task, named and seeded by its number; each goes its own way: the task whose process is sent a warning comes back and
    trains; the one whose trainer dies before it saved anything would die again, and does not. A second job of the run that trains fails at
    once and stays out of the queue; the first goes on. Cancelled, it does not come back."""
    cluster, number = project.cluster, "${oc.env:SLURM_ARRAY_TASK_ID}"
    # no growth, which saves: the second is to die before it saved anything, however late it is caught
    settings = (f"train.seed={number}", "train.checkpoint_every=100k", LASTING)
    job = project.train(f"seed-{number}", *settings, nodes=1, options=("--array=1-2",))
    for task in (1, 2):
        project.until_it_trains(f"{job}_{task}", 0)
        os.kill(project.trainer(int(cluster.job(f"{job}_{task}")["JobId"]), 0), signal.SIGSTOP)  # until its turn
    one, two = (int(cluster.job(f"{job}_{task}")["JobId"]) for task in (1, 2))
    os.kill(project.trainer(two, 0), signal.SIGKILL)
    assert cluster.wait(f"{job}_2", "FAILED", seconds=PATIENCE)["Restarts"] == "0"
    why = "failed with status 137 without a new checkpoint (still 0 images), and would fail again; not requeued"
    assert why in project.log(f"{job}_2")
    cluster.run("scancel", "--signal=USR1", f"{job}_1")  # the process; at the end of its time Slurm tells the script
    os.kill(project.trainer(one, 0), signal.SIGCONT)
    project.until_it_trains(f"{job}_1", 1)
    seeds = [OmegaConf.load(project.run(f"seed-{task}") / "config.yaml").train.seed for task in (1, 2)]
    assert seeds == [1, 2]

    second = project.train("seed-1", "train.seed=1", LASTING, nodes=1)
    cluster.wait(second, "FAILED", seconds=PATIENCE)
    assert cluster.job(second)["Restarts"] == "0"
    assert re.search(f"already being trained by process .* \\(Slurm job {one}\\)", project.log(second))
    assert re.search(f"is being trained by job {one}; not requeued", project.log(second))
    said = hires("slurm", "status", f"run={project.run('seed-1')}", **project.env).stdout
    wanted = [
        rf"job +{one} \(celebahq_1024\), RUNNING on n\d for 00:\d\d:\d\d of 1-00:00:00",
        r"restarts +1, 0 of them after failures; the last start at [\d,]+ images, 1 processes on n\d",
        rf"log +logs/celebahq_1024-{one}.log",
        r"images +[\d,]+ of 101,280, 4x4",
        r"speed +[\d.]+ s/kimg",
        r"ETA +\d.* to this level",
        r"checkpoint +\S*/images-\d{12}, [\dm ]*s old",
    ]
    assert [line for line in wanted if not re.search(rf"^{line}", said, re.MULTILINE)] == [], said
    cluster.run("scancel", f"{job}_1")
    assert cluster.wait(f"{job}_1", "CANCELLED", seconds=PATIENCE)["Restarts"] == "1"
    assert cluster.output(f"{job}_1").count("back into the queue") == 1


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "launch").glob("*.sh") if "#SBATCH" in path.read_text()))
def test_launch_script_is_accepted_as_it_is(project, script):
    """By a cluster of 4 nodes of 8 GPUs, with the resources at its top; and not with more nodes than there are."""
    for options, fits in (([], True), (["--nodes=5"], False)):
        command = ["sbatch", "--test-only", *options, f"launch/{script}"]
        done = subprocess.run(command, cwd=project.folder, env=project.env, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode == 0) == fits, done.stderr
