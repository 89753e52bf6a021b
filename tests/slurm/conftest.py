"""A real Slurm on this machine (`slurm/cluster`), started once for all tests that ask for it and removed whatever happens."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = Path(__file__).parents[2]
BOX = ROOT / "slurm/cluster"
HEAD = "#!/usr/bin/env bash\n#SBATCH --output={folder}/%j.log\n#SBATCH --open-mode=append\n"


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up, and what tests do with it."""

    folder: Path
    env: dict[str, str]  # for processes that talk to it; `python` is the one that runs the tests
    jobs: Path  # scripts and logs of jobs, kept with pytest's other files
    outputs: dict[int | str, Path] = field(default_factory=dict)  # of jobs that have begun to write

    def run(self, *command, check: bool = True) -> str:
        """A command's standard output, from the project's folder."""
        words = [str(word) for word in command]
        done = subprocess.run(words, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=120, check=False)
        assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def script(self, text: str) -> Path:
        """A file for sbatch; `output` gives what it printed, in all its runs."""
        path = self.jobs / f"script-{len(list(self.jobs.glob('script-*')))}.sh"
        path.write_text(HEAD.format(folder=self.jobs) + text)
        return path

    def submit(self, *arguments) -> int:
        """sbatch with its options, a script and the script's arguments -> the job's number."""
        return int(self.run("sbatch", "--parsable", *arguments))

    def job(self, number: int) -> dict[str, str]:
        """What `scontrol show job` knows."""
        return dict(re.findall(r"(?:^|\s)([\w:/]+)=(\S*)", self.run("scontrol", "-o", "show", "job", number)))

    def wait(self, number: int, *states: str, restarts: int = 0, seconds: float = 90) -> dict[str, str]:
        """Until the job is in one of the states after at least so many restarts; not longer than that many seconds."""
        deadline = time.monotonic() + seconds
        while (job := self.job(number))["JobState"] not in states or int(job["Restarts"]) < restarts:
            assert time.monotonic() < deadline, f"wanted {states} after {restarts} restarts, found {job}\n{self.output(number)}"
            time.sleep(0.2)
        return job

    def until(self, condition: Callable[[], object], seconds: float = 60, every: float = 0.2) -> None:
        """Until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(every)

    def output(self, number: int | str) -> str:
        """The job's standard output so far."""
        if number not in self.outputs:
            path = Path(self.job(number)["StdOut"])
            if not path.exists():
                return ""
            self.outputs[number] = path
        return self.outputs[number].read_text()

    def node(self, switch: str, name: str) -> None:
        """A power failure (`off`) and its end (`on`)."""
        self.run(BOX, "node", switch, name, f"folder={self.folder}")

    def nodes(self) -> dict[str, str]:
        """{name: state} as Slurm sees it."""
        return dict(line.split() for line in self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%N %T").splitlines())

    def logs(self) -> dict[str, str]:
        """{name: the end of what each daemon and job wrote}."""
        files = [*sorted((self.folder / "log").glob("*.log")), *sorted(self.jobs.glob("*.log"))]
        return {path.name: path.read_text(errors="replace")[-4000:] for path in files}

    def tidy(self) -> None:
        """No job, all nodes on."""
        if numbers := self.run("squeue", "-h", "-o", "%i").split():
            self.run("scancel", *numbers, check=False)  # one may end by itself meanwhile
        for name, state in self.nodes().items():
            if state != "idle":  # it may be on: then this says so, and that is well
                self.run(BOX, "node", "on", name, f"folder={self.folder}", check=False)
        self.until(lambda: not self.run("squeue", "-h") and set(self.nodes().values()) == {"idle"})


@pytest.fixture(scope="session")
def fresh(clean_env, tmp_path_factory) -> Callable[..., AbstractContextManager[Cluster]]:
    """`with fresh(nodes=4, …) as cluster:` a cluster of one's own; skips where this machine cannot have one."""
    env = clean_env | {"PATH": f"{Path(sys.executable).parent}:{clean_env['PATH']}"}
    for left in Path(tempfile.gettempdir()).glob("hires-test-*-*"):  # by tests that were killed
        if not Path("/proc", left.name.split("-")[2]).exists():
            subprocess.run([BOX, "down", f"folder={left}"], env=env, check=False)

    cannot: list[str] = []

    @contextmanager
    def start(**settings) -> Iterator[Cluster]:
        folder = Path(tempfile.mkdtemp(prefix=f"hires-test-{os.getpid()}-"))  # short, for a socket's path
        where = f"folder={folder}"
        try:
            if cannot:  # said once, not tried again and again
                pytest.skip(cannot[0])
            command = [BOX, "up", where, *(f"{name}={value}" for name, value in settings.items())]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode == 3:
                cannot.append(done.stderr.strip().splitlines()[-1])
                pytest.skip(cannot[0])
            assert done.returncode == 0, done.stdout + done.stderr
            yield Cluster(folder, _environment(folder, env), tmp_path_factory.mktemp("jobs"))
        finally:
            subprocess.run([BOX, "down", where], env=env, check=True)

    return start


@pytest.fixture(scope="session")
def clusters(fresh) -> Iterator[Callable[..., Cluster]]:
    """clusters(nodes=4, cpus=8, …) -> a cluster with these settings, started at the first call and shared after it."""
    running: dict[tuple, Cluster] = {}
    with ExitStack() as stack:

        def get(**settings) -> Cluster:
            key = tuple(sorted(settings.items()))
            if key not in running:
                running[key] = stack.enter_context(fresh(**settings))
            return running[key]

        get.running = running
        yield get


@pytest.fixture(scope="session")
def cluster(clusters) -> Cluster:
    """Two nodes of 8 GPUs and 64 CPUs."""
    return clusters()


@pytest.fixture(autouse=True)
def _tidy_after(request) -> Iterator[None]:
    """Each test finds idle nodes."""
    yield
    if "clusters" in request.fixturenames:
        for one in request.getfixturevalue("clusters").running.values():
            one.tidy()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what Slurm and the jobs wrote; the tests that cannot have a cluster are one line together."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and "slurm/cluster:" in report.longrepr[2]:
        report.longrepr = (str(BOX), 1, report.longrepr[2])
    clusters = getattr(item, "funcargs", {}).get("clusters")
    if report.failed and clusters:
        for one in clusters.running.values():
            report.sections += [(f"{one.folder.name} {name}", text) for name, text in one.logs().items()]
    return report


def _environment(folder: Path, env: dict[str, str]) -> dict[str, str]:
    """The environment of a shell that has sourced FOLDER/env."""
    command = ["bash", "-c", 'source "$1/env" && env -0', "bash", str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return dict(item.split("=", 1) for item in done.stdout.split("\0") if item)
