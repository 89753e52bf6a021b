"""`hires evaluate`."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
import itertools
import json
import os
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from rich.table import Table
import torch

from hires import evaluation
from hires.bundle import from_run
from hires.bundle.aggregate import LARGEST
from hires.errors import HiresError
from hires.evaluation import Settings, subject
from hires.evaluation.material import Material
from hires.evaluation.subject import Subject
from hires.ground import distributed
from hires.ground.files import in_words, whole_file
from hires.ground.outside import parse, problem
from hires.ground.showing import show_table
from hires.sampling import drawing
from hires.sampling.seeds import open_bundle, parse_device
from hires.verbs import Result
from pipelines import Shards

USUAL = ["swd", "reconstruction", "diversity"]  # where none are named: those that fit the system
PRIORS = ("standard", "aggregate")
PLACE = ("of", "data", "resolution", "images")  # what a record's measures hold for


@dataclass
class Config(Settings):
    """hires evaluate: measures of a run or a bundle against held-out pictures (docs/measuring.md).
      hires evaluate run=runs/faces data=data/faces
      hires evaluate sampler=bundle data=data/faces measure=swd,fidelity
    """

    run: str = ""  # a run's newest checkpoint, or
    at: str = ""  # its newest at or before that many images, such as 12M, or best (train.keep_best); or
    sampler: str = ""  # a bundle
    prior: str = ""  # of the samples' latents, as hires sample has it: standard | aggregate; empty = what an export draws from
    data: str = MISSING  # shards with a held-out split
    measure: str = ""  # such as swd,fidelity: docs/measuring.md; empty = what fits of swd, reconstruction and diversity
    out: str = ""  # a JSON file to write as well
    device: str = "auto"  # auto | cpu | cuda | cuda:N


@dataclass(frozen=True)
class Evaluated(Result):
    """What was measured: of, data, resolution, images and each measure's findings by name; and the JSON files that hold it."""

    record: dict[str, Any]
    files: list[Path]


def run(config: Config) -> Evaluated:
    """Measure a run or a bundle; prints a table and writes JSON, to `out` and, under what was measured before, into a run's folder.

    Under torchrun or srun the work is shared among the ranks.
    """
    names = evaluation.names_of(config.measure) if config.measure else []
    if bool(config.run) == bool(config.sampler):
        raise HiresError("give either run=… or sampler=…")
    if config.at and config.sampler:
        raise HiresError(f"at={config.at}: only a run has checkpoints to choose from, not sampler=…")
    if config.prior not in ("", *PRIORS):
        raise HiresError(f"prior={config.prior}: wanted {' or '.join(PRIORS)}")
    if config.out and Path(config.out).suffix != ".json":
        raise HiresError(f"out={config.out}: wanted the name of a .json file")
    several = int(distributed.environment(dict(os.environ))["WORLD_SIZE"]) > 1
    if several and config.device != "auto":
        raise HiresError(f"device={config.device}: with several processes each takes its own GPU, or the CPU; leave it out")
    with distributed.joined() if several else nullcontext() as world:
        record, folder, problems = measured(config, names, parse_device(str(world.device) if world else config.device))
        files = []
        if len(record) > len(PLACE) + 1 and (not world or world.first):
            files, unwritten = _report(config, record, folder)
            problems += [unwritten] if unwritten else []
        if problems:
            raise HiresError("; ".join(map(str, problems)))
    return Evaluated(record, files)


def measured(config: Config, names: list[str], device: torch.device) -> tuple[dict, Path | None, list[HiresError]]:
    """The record: what was measured, on what, each measure's findings in order, what latents came from; the pictures' folder; and what
    went wrong on the way.
    """
    of, prior, trained_on = _of_bundle(config, device) if config.sampler else _of_run(config, device)
    names = names or evaluation.fitting(USUAL, of)
    evaluation.check(names, of, config)
    shards = Shards.open(config.data)
    elsewhere = config.run and prior == "aggregate" and trained_on != shards.identity
    problem = f"data={config.data} holds other pictures than the run was trained on"
    if elsewhere:
        if config.prior:
            raise HiresError(f"prior=aggregate: {problem}")
        prior = "standard"
    material = Material(of, shards, config.images, _folder(config, of), codes=bool(config.run) and prior == "aggregate")
    count = min(config.images, material.shards.count("holdout"))
    record = {"of": of.name, "data": config.data, "resolution": of.resolution, "images": count, "seen": of.images}
    ended = []
    for name in names:
        try:
            record |= evaluation.MEASURES[name].measure(material, config)
        except (HiresError, OSError) as error:  # the measures before it may have taken hours
            text = in_words(error).removeprefix(f"measure={name}: ")
            ended = [HiresError(f"measure={name}: {text}")]
            break
    if material.sampled and of.coded:
        record["prior"] = prior
        if elsewhere and material.first:
            print(f"samples' latents come from N(0, I): {problem}")
    return record, material.folder, ([material.unwritten] if material.unwritten else []) + ended


def _of_bundle(config: Config, device: torch.device) -> tuple[Subject, str, str]:
    bundle = open_bundle(config.sampler, str(device), "")
    drawing.check(bundle, prior=config.prior)
    prior = config.prior or bundle.prior
    return subject.of_bundle(bundle, config.sampler, prior), prior, ""


def _of_run(config: Config, device: torch.device) -> tuple[Subject, str, str]:
    """The subject of a run, what its samples' latents come from, by default those of its export, and the identity of its shards."""
    loaded = from_run.load(config.run, config.at)
    network = loaded.config.network
    size = loaded.resolution, network.image_channels, network.latent
    name = f"{config.run} ({loaded.images:,} images)"
    of = subject.of_networks(loaded.networks, loaded.config.objective, name, loaded.images, size, loaded.alpha, device)
    if config.prior == "aggregate" and not of.coded:
        raise HiresError(f"prior=aggregate: objective={of.system} has no inference model whose codes stand for latents; leave it out")
    prior = config.prior or ("aggregate" if of.coded and loaded.resolution <= LARGEST else "standard")
    return of, prior, loaded.data


def _folder(config: Config, of: Subject) -> Path | None:
    """Where measures put their pictures: into the run, or beside `out`."""
    if config.run:
        return Path(config.run) / f"measures-{of.images:012d}"
    return Path(config.out).with_suffix("") if config.out else None


def _report(config: Config, record: dict, folder: Path | None) -> tuple[list[Path], HiresError | None]:
    """Show the record, then write it wherever that is possible; returns the files that hold it, and why another could not be written."""
    title = "{of} at {resolution}x{resolution}, {images} held-out pictures of {data}".format(**record)
    table = Table("measure", "value", title=title)
    for key in list(record)[len(PLACE) + 1 :]:
        table.add_row(key, _rates(record[key]) if key.startswith("detection_") else _shown(record[key]))
    show_table(table)
    written, problem = [], None
    try:
        if config.out:
            _write(Path(config.out), record)
            written.append(Path(config.out))
        if config.run:  # where `hires export` finds it for the model card, and `hires report`
            path = Path(config.run) / f"evaluation-{record['seen']:012d}.json"
            written.append(_keep(path, folder, record))
    except (HiresError, OSError) as error:
        problem = HiresError(in_words(error))
    told = [str(path) for path in written] + ([f"pictures in {folder}"] if folder and folder.is_dir() else [])
    if told:
        print(", ".join(told))
    return written, problem


def _keep(path: Path, folder: Path, record: dict) -> Path:
    """Add the record to what was measured before on the same pictures and from the same prior; of two that differ the one on more pictures
    keeps the name that others look for, of as many the older, or that of the codes' Gaussian, as the run's export draws. The other goes
    into the measures' folder. Returns where this record went.
    """
    before = _read(path)
    if before and not _alike(before, record):
        more, since = before["images"] - record["images"], _prior(before) == "standard" and _prior(record) == "aggregate"
        older = more > 0 or (more == 0 and not since)
        moved = record if older else before
        names = _names(folder / f"evaluation-of-{moved['images']}.json")
        aside = next(name for name in names if not (there := _read(name)) or _alike(there, moved))
        drawn = f" and samples of prior={_prior(moved)}" if _prior(moved) else ""
        print(f"{aside}: kept separately: it is based on {moved['images']} pictures of {moved['data']}{drawn}, {path.name} on others")
        _add(aside, moved)
        if older:
            return aside
    _add(path, record)
    return path


def _add(path: Path, record: dict) -> None:
    """Write the record, under what is there of the same pictures."""
    before = _read(path)
    before = before if before and _alike(before, record) else {}
    if any(key.startswith("pictures_") for key in record):
        before.pop("fidelity", None)  # that there were no weights
    _write(path, before | record)


def _read(path: Path) -> dict:
    """A record; empty where there is none, or, with a line, none that can be read."""
    if not path.exists():
        return {}
    try:
        record = parse(path.read_bytes())
    except ValueError:
        record = None
    if problem(record, {"data": str}) or not all(key in record for key in PLACE):
        print(f"{path}: could not be read, replaced")
        return {}
    return record


def _alike(one: dict, other: dict) -> bool:
    """Whether two records stand on the same pictures, and samples of the same prior, where both have any."""
    same = all(one[key] == other[key] for key in ("resolution", "images")) and len({_prior(one), _prior(other)} - {""}) < 2
    return same and Path(one["data"]).resolve() == Path(other["data"]).resolve()


def _prior(record: dict) -> str:
    """What a record's samples come from, empty where it has none; before there was a choice they came from N(0, I)."""
    sampled = any(key.startswith(("swd", "diversity", "ms_ssim", "frechet", "fid")) for key in record)
    return record.get("prior", "standard" if sampled else "")


def _names(path: Path) -> Iterator[Path]:
    """a.json, a-2.json, a-3.json, …"""
    yield path
    yield from (path.with_stem(f"{path.stem}-{k}") for k in itertools.count(2))


def _write(path: Path, record: dict) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps({key: value for key, value in record.items() if key != "seen"}, indent=1), encoding="utf-8")


def _shown(value) -> str:
    if isinstance(value, list):
        return "  ".join(_shown(v) for v in value) if not isinstance(value[0], list) else "   ".join(_shown(v) for v in value)
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _rates(value) -> str:
    """Rates with their intervals, or a text about them."""
    return value if isinstance(value, str) else "   ".join(f"{rate:.3f} ({low:.2f}–{high:.2f})" for rate, low, high in value)
