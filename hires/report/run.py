"""A run's folder, read as it lies there: finished, under way, cut short or damaged. What is missing is noted, never raised."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
import math
from pathlib import Path
import re
import time

from hires.checkpoints.inventory import Found, look
from hires.errors import HiresError
from hires.ground.outside import parse
from hires.slurm import jobs
from hires.slurm.jobs import Record
from hires.training.monitor import read_records
from hires.training.schedule import Schedule
from hires.training.settings import RunConfig, run_config, schedule_of, settings_of

PARTS = ("config.yaml", "metrics.jsonl", "checkpoints", "samples")  # a folder with none of them is not a run
ALIVE = 30.0  # seconds since the last sign of life of a run that goes on; it gives one every 5


@dataclass(frozen=True)
class Grid:
    """A file of RUN/samples."""

    path: Path
    kind: str  # fakes, reconstructions, reals, …
    images: int  # seen by then; 0 for reals
    resolution: int


@dataclass
class Run:
    """What a run's folder holds."""

    folder: Path
    name: str
    missing: list[str] = field(default_factory=list)  # a line each: what could not be read, and what is not there
    plain: dict = field(default_factory=dict)  # config.yaml
    config: RunConfig | None = None  # the same, where this version knows all its settings
    schedule: Schedule | None = None
    end: int = 0  # images, 0 where it is not known
    environment: dict = field(default_factory=dict)
    statuses: list[dict] = field(default_factory=list)  # progress lines
    events: list[dict] = field(default_factory=list)  # other records of metrics.jsonl: rollback, start, measures
    grids: dict[str, list[Grid]] = field(default_factory=dict)  # by kind, oldest first; reals by resolution
    evaluations: list[tuple[int, dict]] = field(default_factory=list)  # (images, record) of hires evaluate, oldest first
    pictures: list[tuple[int, Path]] = field(default_factory=list)  # that measures drew, with their images, oldest first
    checkpoints: list[Found] = field(default_factory=list)
    jobs: list[Record] = field(default_factory=list)
    owner: str = ""  # who holds, or held, the run's lock
    silent: float = math.inf  # seconds since that one's last sign of life

    @property
    def images(self) -> int:
        """Seen, as far as the folder tells."""
        saved = [one.manifest["images"] for one in self.checkpoints if one.usable]
        return max([*(record["images"] for record in self.statuses[-1:]), *saved[-1:]], default=0)

    @property
    def system(self) -> str:
        """objective.name, empty where it is not known."""
        objective = self.plain.get("objective")
        return str(objective.get("name", "")) if isinstance(objective, dict) else ""

    def seconds(self) -> Iterator[tuple[dict, float]]:
        """Each progress line and the seconds that its steps took."""
        before = 0
        for record in self.statuses:
            yield record, max(record["images"] - before, 0) * record.get("seconds_per_kimg", 0.0) / 1000
            before = record["images"]


def read(folder: Path, key: str = "run") -> Run:
    """The run in `folder`, of its checkpoints manifests and sizes looked at; raises HiresError, naming `key`, where there is no run."""
    if not folder.is_dir():
        raise HiresError(f"{key}={folder}: no such folder; wanted what hires train run=… wrote")
    if not any((folder / part).exists() for part in PARTS):
        raise HiresError(f"{key}={folder}: no run there (none of {', '.join(PARTS)} in it)")
    checkpoints = folder / "checkpoints"
    run = Run(folder, folder.resolve().name, checkpoints=look(checkpoints, hashes=False) if checkpoints.is_dir() else [])
    _read_config(run)
    _read_metrics(run)
    _read_grids(run)
    _read_measures(run)
    run.environment = _json(run, folder / "environment.json") or {}
    if not run.checkpoints:
        run.missing.append("checkpoints: none")
    records = map(jobs.read, sorted((folder / "slurm").glob("*.json")))
    run.jobs = sorted((record for record in records if record and record.starts), key=lambda record: record.starts[0].time)
    owner = jobs.owner(folder)
    run.owner = f"Slurm job {owner}" if owner.isdecimal() else owner
    signs = [time.time() - lock.stat().st_mtime for lock in folder.glob(".running-*") if lock.exists()]
    run.silent = min(signs, default=math.inf)
    return run


def _read_config(run: Run) -> None:
    try:
        run.plain = settings_of(run.folder)
    except FileNotFoundError:
        run.missing.append("config.yaml: not there: configuration and schedule are not known")
        return
    except HiresError as error:
        run.missing.append(f"config.yaml: {_one_line(error)}")
        return
    try:
        run.config = run_config(run.plain)
    except HiresError as error:
        run.missing.append(f"config.yaml: settings that this version does not know ({_one_line(error)})")
    try:
        run.schedule, run.end = schedule_of(run.plain)
    except HiresError as error:
        run.missing.append(f"config.yaml: no schedule ({_one_line(error)})")


def _read_metrics(run: Run) -> None:
    path = run.folder / "metrics.jsonl"
    records = []
    with suppress(OSError):
        records = [record for _, record in read_records(path)]
    broken = [number for number, record in enumerate(records, start=1) if not record]
    for record in filter(None, records):
        (run.statuses if "resolution" in record else run.events).append(record)
    if broken == [len(records)]:
        run.missing.append("metrics.jsonl: its last line is half written: the run is writing it, or was killed while it wrote")
    elif broken:
        run.missing.append(f"metrics.jsonl: {len(broken)} lines not readable, the first is line {broken[0]}")
    if not run.statuses:
        run.missing.append("metrics.jsonl: no progress line: no curves, no speed")


def _read_grids(run: Run) -> None:
    for path in sorted((run.folder / "samples").glob("*.png")):
        match = re.fullmatch(r"([^.]+?)(?:-(\d{12}))?-(\d+)x\3\.png", path.name)
        if match:
            grid = Grid(path, match[1], int(match[2] or 0), int(match[3]))
            run.grids.setdefault(grid.kind, []).append(grid)
    for grids in run.grids.values():
        grids.sort(key=lambda grid: (grid.images, grid.resolution))
    if not run.grids:
        run.missing.append("samples: no grids of pictures")


def _read_measures(run: Run) -> None:
    for path in sorted(run.folder.glob("evaluation-*.json")):
        match, record = re.fullmatch(r"evaluation-(\d{12})\.json", path.name), _json(run, path)
        if match and record:
            run.evaluations.append((int(match[1]), record))
    for folder in sorted(run.folder.glob("measures-*")):
        match = re.fullmatch(r"measures-(\d{12})", folder.name)
        if match:
            run.pictures += [(int(match[1]), path) for path in sorted(folder.glob("*.png"))]
    if not run.evaluations:
        run.missing.append("measures: none; hires evaluate run=… data=… makes them")


def _json(run: Run, path: Path) -> dict | None:
    """A file's object; None, and a line, where it has none."""
    try:
        found = parse(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        problem = "no object in it"
    except FileNotFoundError:
        problem = "not there"
    except (OSError, ValueError) as error:
        problem = f"not readable ({_one_line(error)})"
    run.missing.append(f"{path.name}: {problem}")
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
