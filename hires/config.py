"""The configuration of each verb: typed, composed by Hydra from configs/ and the command line, checked whole before any work."""

from dataclasses import dataclass, field, fields, is_dataclass
import inspect
from pathlib import Path
import re
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hires import overrides as command_line
from hires.errors import HiresError
from hires.evaluation import Settings
from hires.networks import NetworkConfig
from hires.objectives import SYSTEMS
from hires.sampling.refining import LangevinConfig
from hires.training.player import OptimizerConfig, ZeroConfig
from hires.training.schedule import ScheduleConfig
from pipelines.prepare import PrepareConfig

CONFIGS = Path(__file__).resolve().parent / "configs"  # in a checkout a link to its top folder
FROM = "from_"  # the field of a schema that users write as from=…: Python keeps the word for itself


@dataclass
class DataConfig:
    """Where the shards are and how they are fed."""

    root: str = MISSING  # what `hires prepare` made: a folder, or an address (https://…, s3://…)
    loader: str = "pillow"  # pillow | dali (on the GPU where there is one)
    mirror: bool = True  # flip half of the images left to right
    cache_gb: float = 4.0  # levels of at most this size are decoded once and held in memory
    workers: int = 2  # decoding threads for the others
    remote_cache: str = ""  # where shards of an address are kept; empty: in the user's cache folder
    remote_gb: float = 50.0  # at most so many of them (10^9 bytes)


@dataclass
class DemoConfig:
    """`hires demo`."""

    data: str = ""  # a folder of pictures; empty = scikit-learn's 1,797 handwritten digits
    resolution: int = 0  # that the networks grow to; 0 = 16 for the digits, 64 for pictures
    out: str = "demo"  # a folder; a folder in it, named by data and resolution, holds all that is made
    images: str = ""  # stop training after so many, such as 10k; empty = the whole schedule


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
    precision: str = "auto"  # auto (bf16 where the device computes it fast, else fp32) | bf16 (the optimizer keeps fp32 weights) | fp32
    max_images: str = ""  # stop after so many images; empty = the whole schedule
    preflight: bool = True  # one real step at every level and batch before the first
    checkpoint_every: str = "100k"  # images; each level's end is saved too
    keep: int = 3  # newest checkpoints kept, and beside them:
    keep_every: str = ""  # the first at or after each multiple of so many images, such as 1M; empty = none
    keep_levels: bool = True  # each level's last
    keep_best: str = ""  # the best by one of monitor.measures, of the highest level measured; empty = none
    start_from: str = ""  # another run (its newest checkpoint) or a checkpoint of it, where a new run takes its weights from
    deterministic: bool = False  # cuDNN kernels that repeat to the last bit, on GPUs; may be slower. CPUs repeat in any case
    allow_changes: bool = False  # go on from a checkpoint though settings differ that decide what the run is
    threads: int = 0  # CPU threads a process; 0 = one below 32x32, from there its share of the cores
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
    measures: str = ""  # such as swd,diversity,reconstruction: taken on held-out pictures while training; empty = none
    measures_every: str = "50k"  # images; with train.keep_best at each checkpoint as well
    measures_images: int = 256  # samples, and held-out pictures at most
    wandb: str = "off"  # off | offline | online
    tensorboard: bool = False  # numbers and grids for TensorBoard as well, in the run's folder tensorboard/


@dataclass
class TrainConfig:
    """`hires train`."""

    run: str = MISSING  # folder of the run; the same command again resumes
    network: NetworkConfig = field(default_factory=NetworkConfig)
    objective: Any = MISSING  # the Config of a system in hires/objectives/
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
    at: str = ""  # the newest checkpoint that is not past so many images, such as 12M; best (train.keep_best); empty = the newest
    resolution: int = 0  # the newest that is stable at that level; 0 = whichever level it has
    formats: str = ""  # onnx, pt2 or onnx,pt2: the networks in these formats as well
    moments: int = 0  # of the codes of so many training pictures, for prior=aggregate; they pass the inference model once; 0 = none


@dataclass
class SampleConfig:
    """`hires sample`."""

    sampler: str = MISSING  # a bundle
    out: str = MISSING  # a .png file: a grid; any other name: a new folder of numbered PNG files
    seeds: str = "0-63"  # such as 0-63 or 1,5,9
    prior: str = "standard"  # standard: latents from N(0, I) | aggregate: from the Gaussian of training pictures' codes (export moments=…)
    truncation: float = 1.0  # latents are multiplied by it: draws from N(0, truncation^2 I), nearer to the mean picture below 1
    top_by: str = ""  # energy: pictures from the lowest energy to the highest
    keep: float = 1.0  # with top_by: the share of them that is kept
    langevin: LangevinConfig = field(default_factory=LangevinConfig)  # refinement by the energy
    device: str = "auto"  # auto | cpu | cuda | cuda:N


@dataclass
class ReconstructConfig:
    """`hires reconstruct`."""

    sampler: str = MISSING
    from_: str = MISSING  # written from=…: a folder of pictures, files with commas between, or prepared data (its held-out split)
    out: str = MISSING  # a .png file: originals and reconstructions side by side
    codes: str = ""  # a .safetensors file to write as well: mu and logvar (N, d), mse (N,), names in its metadata
    limit: int = 0  # at most so many pictures; 0 = all
    show: int = 32  # so many of them on the sheet
    device: str = "auto"


@dataclass
class ScoreConfig:
    """`hires score`."""

    sampler: str = MISSING
    from_: str = MISSING  # written from=…: pictures as for `hires reconstruct`
    out: str = "score.png"  # the histogram; beside it, under the same name, a .csv of name, energy, rank
    data: str = ""  # prepared data to compare with: its training and its held-out split; or each from where one likes:
    train: str = ""  # pictures trained on: a folder, files, or prepared data (its training split)
    heldout: str = ""  # pictures never trained on: a folder, files, or prepared data (its held-out split)
    images: int = 1000  # at most so many of each of these two, drawn at random
    device: str = "auto"


@dataclass
class RestoreConfig:
    """`hires restore`."""

    sampler: str = MISSING  # a bundle with an energy
    from_: str = MISSING  # written from=…: whole pictures, which are corrupted here; as for `hires reconstruct`
    out: str = MISSING  # a .png file: original, corrupted, restored; beside it, under the same name, a .csv of their errors
    task: str = "denoise"  # denoise | inpaint
    noise: float = 0.3  # of denoise: standard deviation on pixels in [-1, 1]
    mask: str = "center"  # of inpaint, what is unknown: center | left | bottom | random:0.5 | FILE.png (white)
    langevin: LangevinConfig = field(default_factory=LangevinConfig)  # null: the sampler's own; steps 0: 20 to denoise, 400 to inpaint
    seed: int = 0  # of the corruption and of the steps' noise
    limit: int = 64  # at most so many pictures; 0 = all
    show: int = 16  # so many of them on the sheet
    device: str = "auto"


@dataclass
class EditConfig:
    """`hires edit`."""

    sampler: str = MISSING
    plus: str = MISSING  # pictures that have it
    minus: str = MISSING  # pictures that do not
    from_: str = MISSING  # written from=…: pictures to change
    out: str = MISSING  # a .png file: a row a picture, a column a strength, the original first
    strength: str = "0,0.5,1,1.5"  # multiples of the mean code of `plus` minus that of `minus`; 0 is the reconstruction
    show: int = 16  # at most so many rows
    device: str = "auto"


@dataclass
class VideoConfig:
    """`hires video`."""

    sampler: str = MISSING
    out: str = MISSING  # .mp4, .webm, .mov (ProRes), .gif; a name with a slash behind it: a new folder of PNG frames; .png: a strip
    seeds: str = ""  # keyframes, such as 1,5,9; or one of these two; none of them: seeds 0, 1, …, five for each cell
    codes: str = ""  # a .safetensors file of hires reconstruct codes=…
    from_: str = ""  # written from=…: pictures as for `hires reconstruct`
    limit: int = 0  # at most so many keyframes; 0 = all
    path: str = "slerp"  # slerp | linear | spline | walk (near the keyframes, through none) | circle (two keyframes)
    easing: str = "none"  # none | smooth: slower at each keyframe
    loop: bool = True  # from the last keyframe back to the first: the first frame is the last one + one step
    seconds_per_key: float = 1.5  # from one keyframe to the next; a circle has four such quarters
    fps: int = 30
    grid: str = "1x1"  # columns x rows of cells, each with as many keyframes of its own
    size: int = 0  # side of a cell in pixels, a whole multiple of the sampler's; 0 = the first from 256 up
    captions: bool = False  # the keyframes' names under each cell
    beside: bool = False  # with from=…: the originals to the left of the pictures
    steps: int = 10  # pictures in a row of a strip, ends included
    device: str = "auto"  # auto | cpu | cuda | cuda:N


@dataclass
class VideoGrowthConfig:
    """`hires video growth`."""

    run: str = MISSING
    out: str = MISSING  # as for `hires video`, but no strip
    seeds: str = "0-7"  # one for each cell
    grid: str = "4x2"  # columns x rows
    size: int = 0  # side of a cell in pixels, a whole multiple of the last resolution; 0 = the first from 256 up
    seconds_per_checkpoint: float = 1.5  # half of it stands still, half fades into the next
    fps: int = 30
    captions: bool = True  # resolution, images seen, and α in a fade-in
    device: str = "auto"


@dataclass
class ExploreConfig:
    """`hires explore`."""

    sampler: str = MISSING  # a bundle
    host: str = "127.0.0.1"  # this machine alone can reach it; 0.0.0.0: every machine that reaches this one
    port: int = 8000  # 0 = any free one
    open: bool = True  # the page in a browser, where there is a screen
    device: str = "auto"  # auto | cpu | cuda | cuda:N


@dataclass
class EvaluateConfig(Settings):
    """`hires evaluate`."""

    run: str = ""  # a run's newest checkpoint, or
    at: str = ""  # its newest that is not past so many images, such as 12M, or best (train.keep_best); or
    sampler: str = ""  # a bundle
    data: str = MISSING  # shards with a held-out split
    measure: str = ""  # such as swd,fidelity: docs/measuring.md; empty = what fits of swd, reconstruction and diversity
    out: str = ""  # a JSON file to write as well
    device: str = "auto"  # auto | cpu | cuda | cuda:N


@dataclass
class ReportConfig:
    """`hires report`."""

    run: str = MISSING
    out: str = ""  # a .html file; default: RUN/report.html
    real_pictures: bool = True  # false: no picture of the data, nor any that shows some beside its own, so that the page can be shared


@dataclass
class CompareConfig:
    """`hires compare`."""

    runs: str = MISSING  # folders of runs with commas between, at least two
    out: str = "compare.html"
    real_pictures: bool = True  # false: as for `hires report`


SCHEMAS: dict[str, type] = {
    "demo": DemoConfig,
    "prepare": PrepareConfig,
    "inspect": InspectConfig,
    "train": TrainConfig,
    "plan": PlanConfig,
    "checkpoints": CheckpointsConfig,
    "slurm": SlurmConfig,
    "export": ExportConfig,
    "sample": SampleConfig,
    "reconstruct": ReconstructConfig,
    "score": ScoreConfig,
    "restore": RestoreConfig,
    "edit": EditConfig,
    "video": VideoConfig,
    "video_growth": VideoGrowthConfig,
    "explore": ExploreConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
    "compare": CompareConfig,
}


def load(verb: str, overrides: list[str]) -> Any:
    """The verb's configuration as its dataclass; raises HiresError in one line for a wrong key, value or missing one."""
    if not (CONFIGS / f"{verb}.yaml").is_file():
        raise HiresError(f"{CONFIGS / verb}.yaml is missing: this installation is not whole; install hires again")
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
    for name, system in SYSTEMS.items():
        store.store(group="objective", name=f"{name}_schema", node=system.Config)
    try:
        others, texts = command_line.split([_as_field(override, SCHEMAS[verb]) for override in overrides], SCHEMAS[verb])
    except HiresError as error:
        raise HiresError(_as_written(str(error))) from error
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose(verb, [_quoted(override) for override in others])
        # a second merge into the schema, of plain values: catches `+extra=1`, which compose lets pass, and reads every value once
        merged = _typed(SCHEMAS[verb], command_line.put(OmegaConf.to_container(composed), texts))
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            keys = ", ".join(f"{key}=…" for key in missing)
            raise HiresError(f"hires {verb}: {_as_written(keys)} not given")
        return OmegaConf.to_object(merged)
    except (HydraException, OmegaConfBaseException) as error:
        raise HiresError(f"hires {verb}: {_as_written(_one_line(error))}") from error


def help_text(verb: str) -> str:
    """A verb's YAML file and the settings that it takes, with their types, defaults and comments as they stand in the code."""
    schemas = [schema for schema in reversed(SCHEMAS[verb].__mro__) if is_dataclass(schema)]
    for schema in schemas:  # grows while it is read: settings of settings follow
        found = (f.type for f in fields(schema) if isinstance(f.type, type) and is_dataclass(f.type))
        schemas += [one for one in found if one not in schemas]
    sources = (inspect.getsource(schema).split("\n    def ")[0].rstrip() for schema in schemas)
    return "\n\n".join([(CONFIGS / f"{verb}.yaml").read_text(encoding="utf-8").rstrip(), *sources])


def train_config(plain: dict) -> TrainConfig:
    """The training configuration that a manifest or a run's config.yaml holds; raises HiresError for one that is none."""
    try:
        return OmegaConf.to_object(_typed(TrainConfig, plain))
    except OmegaConfBaseException as error:
        raise HiresError(f"configuration: {_one_line(error)}") from error


def _typed(schema: type, plain: dict) -> DictConfig:
    """`plain` merged into its schema, the objective's settings into their system's."""
    typed = OmegaConf.structured(schema)
    if "objective" in plain:
        name = plain["objective"].get("name")
        if name not in SYSTEMS:
            raise HiresError(f"objective.name={name}: wanted {', '.join(SYSTEMS)}")
        typed.objective = OmegaConf.structured(SYSTEMS[name].Config)
    return OmegaConf.merge(typed, command_line.literal(plain))


def _as_field(override: str, schema: type) -> str:
    """`from=a.jpg` as `from_=a.jpg` where the schema has that field."""
    return re.sub(r"^([+~]*)from(?==|$)", rf"\1{FROM}", override) if FROM in schema.__dataclass_fields__ else override


def _as_written(text: str) -> str:
    """A message about the field `from_` with the key as it was written."""
    return re.sub(rf"\b{FROM}(?=[=:'])", "from", text)


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
    text = re.sub(r" \w+_schema\b", "", " ".join(" ".join(keep).split()))  # bases of the files, nobody's choice
    text = re.sub(r"Key '([^']+)' not in '\w+'", r"no setting '\1'; --help shows those that there are", text)  # the class's name is ours
    return f"{full}: {text}" if full and full not in text else text
