"""The configuration of each verb: typed, composed by Hydra from configs/ and the command line, checked whole before any work."""

from dataclasses import dataclass, field
from pathlib import Path
import re
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hires.errors import HiresError
from hires.networks import NetworkConfig
from hires.objectives.divergence_triangle import TriangleConfig
from hires.training.player import OptimizerConfig, ZeroConfig
from hires.training.schedule import ScheduleConfig
from pipelines.prepare import PrepareConfig

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@dataclass
class DataConfig:
    """Where the shards are and how they are fed."""

    root: str = MISSING  # what `hires prepare` made: a folder, or an address (https://…, s3://…)
    loader: str = "webdataset"  # webdataset (Pillow decodes) | dali (on the GPU where there is one)
    mirror: bool = True  # flip half of the images left to right
    cache_gb: float = 4.0  # levels of at most this size are decoded once and held in memory
    workers: int = 2  # decoding threads for the others
    remote_cache: str = ""  # where shards of an address are kept; empty: in the user's cache folder
    remote_gb: float = 50.0  # at most so many of them (10^9 bytes)


@dataclass
class InspectConfig:
    """`hires inspect`."""

    data: str = MISSING  # what `hires prepare` made: a folder, or an address
    out: str = ""  # a PNG file to write: a contact sheet
    decode: int = 64  # pictures of each level that are decoded, to measure the rate
    workers: int = 0  # threads that read and hash; 0 = one a core
    verify: bool | None = None  # read every file; null = of a folder yes, of an address no


@dataclass
class RunConfig:
    """The run as a whole."""

    seed: int = 0
    precision: str = "bf16"  # bf16 (fp32 weights kept by the optimizer) | fp32
    max_images: str = ""  # stop after so many images; empty = the whole schedule
    preflight: bool = True  # one real step at every level and batch before the first
    checkpoint_every: str = "100k"  # images; each level's end is saved too
    keep: int = 3  # newest checkpoints kept, and beside them:
    keep_every: str = ""  # the first at or after each multiple of so many images, such as 1M; empty = none
    keep_levels: bool = True  # each level's last
    start_from: str = ""  # another run (its newest checkpoint) or a checkpoint of it, where a new run takes its weights from
    threads: int = 0  # CPU threads a process; 0 = torch's choice
    stop_signal: str = "USR1"  # asks for a save and an exit with 85, as TERM and INT do; another where NCCL uses USR1 itself
    stop_after: str = ""  # such as 3h50m: saved and ended (85) before so much time since the process's start; empty = no limit
    hang_timeout: str = "10m"  # a rank that makes no progress for so long ends the run (start, growth, saving: three times); off = never
    on_nonfinite: str = "stop"  # stop | rollback: to the last checkpoint, with other noise
    rollbacks: int = 3  # at most so many in a run, then stop


@dataclass
class MonitorConfig:
    """What a person sees."""

    status_every: str = "5k"  # images between progress lines
    snapshot_every: str = "50k"  # images between grids
    samples: int = 64  # pictures in a grid
    wandb: str = "off"  # off | offline | online


@dataclass
class TrainConfig:
    """`hires train`."""

    run: str = MISSING  # folder of the run; the same command again resumes
    network: NetworkConfig = field(default_factory=NetworkConfig)
    objective: TriangleConfig = field(default_factory=TriangleConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    train: RunConfig = field(default_factory=RunConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)


@dataclass
class PlanConfig(TrainConfig):
    """`hires plan`: a training configuration and the world it is to run on; with `nodes` or `gpus_per_node`, how it scales there."""

    world_size: int | None = None  # null: nodes * gpus_per_node, or 1
    nodes: int | None = None
    gpus_per_node: int | None = None
    bandwidth: float = 0.0  # Gbit/s in and out of a node, all its network cards together, one direction
    intra_bandwidth: float = 0.0  # GB/s in and out of a GPU inside its node, one direction
    latency_us: float = 30.0  # microseconds a collective takes whatever its size
    measured: str = ""  # a table of step times of one device (benchmarks/scaling.py writes one), or
    tflops: float = 0.0  # 10^12 operations a second that a device is assumed to sustain (not its peak)
    round_ms: float = 0.0  # with tflops: milliseconds of a round whatever its batch (launching kernels, copies, Adam), assumed


@dataclass
class CheckpointsConfig:
    """`hires checkpoints`."""

    run: str = MISSING
    action: str = "list"  # list | verify: read every file and compare its hash


@dataclass
class SlurmConfig:
    """`hires slurm`."""

    run: str = MISSING
    action: str = "status"


@dataclass
class ExportConfig:
    """`hires export`."""

    run: str = MISSING
    out: str = ""  # default: RUN/bundle-IMAGES
    at: str = ""  # images; empty = the newest checkpoint


@dataclass
class SampleConfig:
    """`hires sample`."""

    sampler: str = MISSING  # a bundle
    out: str = MISSING  # a PNG file
    seeds: str = "0-63"  # such as 0-63 or 1,5,9


@dataclass
class VideoConfig:
    """`hires video`."""

    sampler: str = MISSING
    out: str = MISSING  # an .mp4 file
    seeds: str = "0-4"
    path: str = "slerp"  # slerp | linear
    loop: bool = True
    seconds_per_key: float = 1.5
    fps: int = 30


@dataclass
class EvaluateConfig:
    """`hires evaluate`."""

    run: str = ""  # a run's newest checkpoint, or
    sampler: str = ""  # a bundle
    data: str = MISSING  # shards with a held-out split
    measure: str = "swd,reconstruction,diversity"
    images: int = 1000  # samples, and held-out pictures at most
    out: str = ""  # a JSON file to write as well


SCHEMAS: dict[str, type] = {
    "prepare": PrepareConfig,
    "inspect": InspectConfig,
    "train": TrainConfig,
    "plan": PlanConfig,
    "checkpoints": CheckpointsConfig,
    "slurm": SlurmConfig,
    "export": ExportConfig,
    "sample": SampleConfig,
    "video": VideoConfig,
    "evaluate": EvaluateConfig,
}


def load(verb: str, overrides: list[str]) -> Any:
    """The verb's configuration as its dataclass; raises HiresError in one line for a wrong key, value or missing one."""
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose(verb, [_quoted(override) for override in overrides])
        # a second merge into the schema, of plain values: catches `+extra=1`, which compose lets pass, and reads every value once
        merged = OmegaConf.merge(OmegaConf.structured(SCHEMAS[verb]), OmegaConf.to_container(composed))
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise HiresError(f"hires {verb}: {', '.join(f'{key}=…' for key in missing)} not given")
        return OmegaConf.to_object(merged)
    except (HydraException, OmegaConfBaseException) as error:
        raise HiresError(f"hires {verb}: {_one_line(error)}") from error


def _quoted(override: str) -> str:
    """`seeds=1,5,9`, `path=/my pictures` or `out=a=b` as Hydra takes them: a value that is no single value in its grammar is quoted."""
    key, equals, value = override.partition("=")
    if not equals or not value:
        return override
    try:
        if not OverridesParser.create().parse_override(override).is_sweep_override():
            return override
    except HydraException:
        pass  # not in Hydra's grammar: text
    return key + "='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def to_dict(config: Any) -> dict:
    """A configuration as plain dictionaries, for the run folder and manifests."""
    return OmegaConf.to_container(OmegaConf.structured(config))


def _one_line(error: Exception) -> str:
    """Hydra's messages say the essential in their first lines; the deepest cause names the key."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    aside = r"(full_key|Config search path|provider=|object_type|reference_type|Set the environment|To append to your|Check available)"
    keep = [line for line in lines if not re.match(aside, line)]
    full = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), "")
    text = " ".join(" ".join(keep).split())
    return f"{full}: {text}" if full and full not in text else text
