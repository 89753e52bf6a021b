"""The settings of a training as a whole, and a run's again out of its files."""

from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
import yaml

from hires import config
from hires.checkpoints.retention import Policy
from hires.errors import HiresError
from hires.ground.machine import PRECISIONS
from hires.ground.ranges import setting
from hires.networks import NetworkConfig
from hires.objectives import SYSTEMS
from hires.training.data import DataConfig
from hires.training.player import OptimizerConfig, ZeroConfig
from hires.training.schedule import Schedule, ScheduleConfig, parse_images


@dataclass
class TrainConfig:
    """The run as a whole."""

    seed: int = setting(0, at_least=0)
    # auto (bf16 where the device computes it fast, else fp32) | bf16 (the optimizer keeps fp32 weights) | fp32
    precision: str = setting("auto", among=PRECISIONS)
    max_images: str = ""  # images after which the run stops; empty = the whole schedule
    trial: bool = True  # one real step and a grid at every level before the first
    checkpoint_every: str = "100k"  # images; each level's end is saved too
    keep: int = setting(3, at_least=1)  # newest checkpoints kept, and beside them:
    keep_every: str = ""  # images such as 1M: the first at or after each multiple; empty = none
    keep_levels: bool = True  # each level's last
    keep_best: str = ""  # the best by one of monitor.measures, of the highest level measured; empty = none
    start_from: str = ""  # weights for a new run: another run (its newest checkpoint), or one of its checkpoints
    allow_changes: bool = False  # continue although settings that define the run have changed
    threads: int = setting(0, at_least=0, at_most=1024)  # CPU threads a process; 0 = one below 32x32, from there its share of the cores
    stop_signal: str = "USR1"  # saves and exits with 85, as TERM and INT do; choose another where NCCL uses USR1 itself
    stop_after: str = ""  # such as 3h50m: saves and exits with 85 within this time of the process's start; empty = no limit
    hang_timeout: str = "10m"  # ends the run when a rank makes no progress for this long (start, growth, saving: 3 times); off = never
    deterministic: bool = False  # cuDNN kernels that repeat to the last bit, on GPUs; may be slower. CPUs repeat in any case
    on_nonfinite: str = setting("stop", among=("stop", "rollback"))  # stop | rollback: to the last checkpoint, with other noise
    rollbacks: int = setting(3, at_least=1, wanted="at least 1; train.on_nonfinite=stop for none")  # at most this many; then the run stops

    def policy(self) -> Policy:
        """Which checkpoints stay; raises HiresError for a bad number."""
        every = parse_images(self.keep_every, "train.keep_every") if self.keep_every else 0
        return Policy(self.keep, every, self.keep_levels, self.keep_best)


@dataclass
class MonitorConfig:
    """What a person sees."""

    status_every: str = "5k"  # images between progress lines
    snapshot_every: str = "50k"  # images between grids
    samples: int = setting(64, at_least=2, at_most=10_000)  # pictures in a grid; half as many held-out ones beside it
    measures: str = ""  # such as swd,diversity,reconstruction: taken on held-out pictures while training; empty = none
    measures_every: str = "50k"  # images; with train.keep_best at each checkpoint as well
    measures_images: int = setting(256, at_least=1)  # samples, and held-out pictures at most
    tensorboard: bool = False  # numbers and grids for TensorBoard as well, in the run's folder tensorboard/
    wandb: str = setting("off", among=("off", "offline", "online"))  # off | offline | online


@dataclass
class RunConfig:
    """`hires train`."""

    run: str = MISSING  # folder of the run; the same command again resumes
    network: NetworkConfig = field(default_factory=NetworkConfig)
    objective: Any = MISSING  # the Config of a system in hires/objectives/
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)

    def every(self) -> dict[str, int]:
        """Images from one status line, snapshot, checkpoint or taking of the measures to the next; raises HiresError for a bad number."""
        places = {"status": "monitor", "snapshot": "monitor", "checkpoint": "train", "measures": "monitor"}
        names = {what: f"{place}.{what}_every" for what, place in places.items()}
        every = {what: parse_images(attrgetter(name)(self), name) for what, name in names.items()}
        return every if self.monitor.measures else every | {"measures": 0}

    # configuration groups beside the files of configs/: key -> name -> settings; `objective` is of one of these classes by its name
    GROUPS: ClassVar[dict[str, dict[str, Any]]] = {
        "objective": {name: system.Settings for name, system in SYSTEMS.items()},
        "zero": {f"stage{stage}": {"stage": stage} for stage in range(4)},
    }
    RENAMED: ClassVar[dict[str, str]] = {"train.preflight": "train.trial"}  # as older runs call settings -> their names today


def run_config(plain: dict) -> RunConfig:
    """The training configuration that a manifest or a run's config.yaml holds; raises HiresError where it is not valid."""
    return config.from_plain(RunConfig, with_later_settings(plain))


def with_later_settings(plain: dict) -> dict:
    """An older run's configuration with the names of today, and with the values that settings had before they were settings."""
    for name, today in RunConfig.RENAMED.items():
        section, key = name.split(".")
        if isinstance(plain.get(section), dict) and key in plain[section]:
            plain = plain | {section: {today.split(".")[1] if one == key else one: value for one, value in plain[section].items()}}
    # a new setting of the networks has a default that builds what was built before it
    before = {"network": asdict(NetworkConfig()), "objective": {"energy_weight": 1.0, "energy_sees": "samples"}}
    triangle = isinstance(plain.get("objective"), dict) and plain["objective"].get("name") == "divergence_triangle"
    sections = [name for name in before if isinstance(plain.get(name), dict) and (name == "network" or triangle)]
    plain = plain | {name: before[name] | plain[name] for name in sections}
    if isinstance(plain.get("objective"), dict) and isinstance(chains := plain["objective"].get("chains"), dict):
        plain = plain | {"objective": plain["objective"] | {"chains": {"drawn": "batch"} | chains}}
    return plain


def settings_of(run: Path) -> dict:
    """What a run's config.yaml holds, unchecked; raises HiresError for one that is not YAML of settings, FileNotFoundError for none."""
    path = run / "config.yaml"
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path))
        if not isinstance(plain, dict) or not all(isinstance(key, str) for key in plain):
            raise ValueError("no settings in it")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise HiresError(f"{path}: not readable ({' '.join(str(error).split())[:200]})") from error
    return plain


def schedule_of(plain: dict) -> tuple[Schedule, int]:
    """The schedule of a run's settings, and the images at which the run ends; raises HiresError where there is none in them."""
    rows, train = plain.get("schedule"), plain.get("train", {})
    if not isinstance(rows, dict) or not isinstance(train, dict):
        raise HiresError("configuration: no schedule, or no train in it")
    schedule = Schedule(config.from_plain(ScheduleConfig, rows))
    return schedule, schedule.end(train.get("max_images"))


def to_dict(config: Any) -> dict:
    """A configuration as plain dictionaries, for the run folder and manifests."""
    return asdict(config)
