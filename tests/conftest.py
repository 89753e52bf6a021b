"""What several test folders need: one thread, a process group of one for DeepSpeed, and a clean environment for processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext
import gc
import json
import os
from pathlib import Path
import random
import signal
import subprocess
import sys

import pytest

from tests.processes.forks import Server, serving

LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ROOT = Path(__file__).parent
PROCESSES = ROOT / "processes"
ON_GPUS = os.environ.get("HIRES_TEST_GPUS") == "1"  # the processes that tests start see the GPUs, and meet over nccl
# long ones: the last to begin decides when all is done
FIRST = ("slurm/test_jobs.py", "slurm", "explore", "checkpoints", "objectives", "bundle", "training")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="campaigns whole, not a sample drawn by the commit or $HIRES_TEST_SEED")


def gpus() -> int:
    """How many torch sees; pytest's process that has workers never asks, and does without torch."""
    import torch

    return torch.cuda.device_count()


class OfAllWorkers:
    """What pytest's process holds for its workers, if it has any: one process that forks for them all."""

    def __init__(self) -> None:
        self.held = ExitStack()
        self.address = ""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node) -> None:
        self.address = self.address or self.held.enter_context(serving(clean()))
        node.workerinput["forks"] = self.address

    def pytest_unconfigure(self) -> None:
        self.held.close()


def pytest_configure(config: pytest.Config) -> None:
    if ON_GPUS and not gpus():
        raise pytest.UsageError("HIRES_TEST_GPUS=1: torch sees no GPU here")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell that runs the tests in the background: what they start inherits it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(OfAllWorkers())


def seed() -> str:
    """What draws the samples of campaigns: $HIRES_TEST_SEED, or the commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return os.environ.get("HIRES_TEST_SEED") or commit or "0"


def pytest_report_header(config: pytest.Config) -> str:
    return "campaigns: all of them" if config.option.all else f"campaigns: a sample; again with HIRES_TEST_SEED={seed()}, whole with --all"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long ones come first; of a test marked campaign(n) only n cases stay."""
    items.sort(key=lambda item: next((i for i, first in enumerate(FIRST) if item.nodeid.startswith(f"tests/{first}")), len(FIRST)))
    campaigns: dict[tuple, list[pytest.Item]] = {}
    for item in items:
        if mark := item.get_closest_marker("campaign"):
            campaigns.setdefault((item.path, item.originalname, *mark.args), []).append(item)
    left = set()
    for (path, name, count), cases in campaigns.items():
        cases.sort(key=lambda item: item.name)
        left |= set(cases) - set(random.Random(f"{seed()} {path.name} {name}").sample(cases, min(count, len(cases))))
    if left and not config.option.all and all("::" not in argument for argument in config.args):  # a case named by hand is run
        config.hook.pytest_deselected(items=list(left))
        items[:] = [item for item in items if item not in left]


# What was imported and collected is no garbage: the collector would look through all of it again at each player's end, and as it fills.


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Frozen after collecting."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """What a file's tests have imported is frozen after the last of them."""
    yield
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests run side by side with others' work; sums in one order also make them repeatable."""
    import torch

    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the most that hires.ground.machine takes


@pytest.fixture(scope="session")
def world() -> Iterator:
    """The process group of this one process, as `hires train` starts it."""
    from hires.ground import distributed

    before = {name: os.environ.get(name) for name in LAUNCH}
    world = distributed.start(threads=1)
    for name, value in before.items():  # processes started by other tests must not think that they belong to this group
        if value is None and name != "LOCAL_RANK":  # which DeepSpeed reads when it makes an engine
            os.environ.pop(name, None)
    yield world
    distributed.stop()
    if before["LOCAL_RANK"] is None:
        os.environ.pop("LOCAL_RANK", None)


def clean() -> dict[str, str]:
    """Environment for processes of their own: one thread, no launcher's and no Slurm's variables."""
    env = {k: v for k, v in os.environ.items() if k not in LAUNCH and not k.startswith(("SLURM_", "TORCHELASTIC_"))}
    # torch is to count the GPUs by NVML: what has touched CUDA cannot be forked
    gpus = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"} if ON_GPUS else {"CUDA_VISIBLE_DEVICES": ""}
    return env | gpus | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def need_gpus(ranks: int) -> None:
    """Skip a test of several ranks where the processes use GPUs and there are fewer: nccl takes each for one rank alone."""
    if ON_GPUS and ranks > gpus():
        pytest.skip(f"{ranks} ranks on {gpus()} GPUs")


@pytest.fixture(scope="session")
def clean_env() -> dict[str, str]:
    """As `clean` says."""
    return clean()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of scikit-learn's 1,797 digits at 4x4, 8x8 and 16x16; not to be changed."""
    from pipelines import PrepareConfig, prepare

    out = tmp_path_factory.mktemp("data") / "digits"
    prepare(PrepareConfig(source="digits", out=str(out), resolution=16, workers=1))
    return out


@pytest.fixture(scope="session")
def tiny(digits) -> list[str]:
    """Overrides of a run of seconds on the digits: 48 images at 4x4, then 32 fading in and 32 stable at 8x8, in batches of 16, fp32."""
    return [
        *("network=slim", "network.latent=8", "network.channels_base=128", "network.channels_max=16", "network.convs=1"),
        *("network.image_channels=1", f"data.root={digits}", "schedule.resolution=8", "schedule.levels.4.stable=48"),
        *("schedule.levels.4.batch=16", "schedule.levels.8.batch=16", "schedule.levels.8.fade=32", "schedule.levels.8.stable=32"),
        *("train.precision=fp32", "train.trial=false", "train.threads=1", "train.checkpoint_every=32", "train.keep=99"),
        *("monitor.status_every=16", "monitor.snapshot_every=1k", "monitor.samples=4"),
    ]


@pytest.fixture(scope="session")
def forks(pytestconfig) -> Iterator[Server]:
    """forks.start(command, env=…) and .run: processes of this Python without the seconds of importing."""
    worker = getattr(pytestconfig, "workerinput", None)
    with nullcontext(worker["forks"]) if worker else serving(clean()) as address, closing(Server(address)) as server:
        yield server


@pytest.fixture(scope="session")
def hires(forks, clean_env) -> Callable[..., subprocess.CompletedProcess]:
    """hires(*arguments) -> `python -m hires` in a process of its own, finished."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess:
        return forks.run([sys.executable, "-m", "hires", *arguments], env=clean_env | env, timeout=300)

    return run


@pytest.fixture(scope="session")
def ranks(forks, clean_env) -> Callable[..., str]:
    """ranks(world size, script, *arguments): as torchrun starts them, to their end; fails with their output where one fails."""

    def run(size: int, script: Path, *arguments: str) -> str:
        need_gpus(size)
        return forks.world(size, [sys.executable, script, *arguments], env=clean_env, timeout=500)

    return run


@pytest.fixture(scope="session")
def worlds(forks, clean_env, tmp_path_factory) -> Callable[[list[tuple[int, list[list[str]]]]], None]:
    """worlds([(size, [overrides, …]), …]): trains the runs, those of a world one after another in the same processes."""

    def train(plan: list[tuple[int, list[list[str]]]]) -> None:
        need_gpus(max(size for size, _ in plan))
        file = tmp_path_factory.mktemp("worlds") / "plan.json"
        file.write_text(json.dumps(plan))
        done = forks.run([sys.executable, PROCESSES / "worlds.py", file], env=clean_env, timeout=500)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    return train
