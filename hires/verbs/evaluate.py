"""`hires evaluate`."""

import json
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table
import torch

from hires import evaluation
from hires.config import EvaluateConfig
from hires.errors import HiresError
from hires.evaluation import subject
from hires.evaluation.material import Material
from hires.evaluation.subject import Subject
from hires.sampling import from_run
from hires.sampling.atomic import whole_file
from hires.sampling.seeds import open_bundle, parse_device
from hires.training import distributed
from pipelines import Shards

PLACE = ("of", "data", "resolution", "images")  # what a record's measures hold for


def run(config: EvaluateConfig) -> int:
    """Measure a run or a bundle; prints a table and writes JSON, to `out` and, under what was measured before, into a run's folder.

    Under torchrun or srun the work is shared among the ranks.
    """
    names = evaluation.names_of(config.measure)
    if bool(config.run) == bool(config.sampler):
        raise HiresError("give either run=… or sampler=…")
    if config.at and config.sampler:
        raise HiresError(f"at={config.at}: only a run has checkpoints to choose from, not sampler=…")
    several = int(distributed.environment(dict(os.environ))["WORLD_SIZE"]) > 1
    world = distributed.start() if several else None
    try:
        device = world.device if world and config.device == "auto" else parse_device(config.device)
        found = measured(config, names, device)
        if not world or world.first:
            _report(config, found)
    finally:
        if several:
            distributed.stop()
    return 0


def measured(config: EvaluateConfig, names: list[str], device: torch.device) -> dict:
    """The record: what was measured, on what, and each measure's findings in the order asked for."""
    of = _open(config, device)
    evaluation.check(names, of, config)
    material = Material(of, Shards.open(config.data), config.images, _folder(config, of))
    count = min(config.images, material.shards.count("holdout"))
    record = {"of": of.name, "data": config.data, "resolution": of.resolution, "images": count, "seen": of.images}
    for name in names:
        record |= evaluation.MEASURES[name].measure(material, config)
    return record


def _open(config: EvaluateConfig, device: torch.device) -> Subject:
    if config.sampler:
        return subject.of_bundle(open_bundle(config.sampler, str(device), ""), config.sampler)
    loaded = from_run.load(config.run, config.at)
    network = loaded.config.network
    size = loaded.resolution, network.image_channels, network.latent
    name = f"{config.run} ({loaded.images:,} images)"
    return subject.of_networks(loaded.networks, loaded.config.objective, name, loaded.images, size, loaded.alpha, device)


def _folder(config: EvaluateConfig, of: Subject) -> Path | None:
    """Where measures put their pictures: into the run, or beside `out`."""
    if config.run:
        return Path(config.run) / f"measures-{of.images:012d}"
    return Path(config.out).with_suffix("") if config.out else None


def _report(config: EvaluateConfig, record: dict) -> None:
    title = "{of} at {resolution}x{resolution}, {images} held-out pictures of {data}".format(**record)
    table = Table("measure", "value", title=title)
    for key in list(record)[len(PLACE) + 1 :]:
        table.add_row(key, _shown(record[key]))
    Console().print(table)
    if config.out:
        _write(Path(config.out), record)
    if config.run:  # where `hires export` finds it for the model card, and `hires report`
        path = Path(config.run) / f"evaluation-{record['seen']:012d}.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        same = all(before.get(key) == record[key] for key in PLACE)
        _write(path, before | record if same else record)


def _write(path: Path, record: dict) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps({key: value for key, value in record.items() if key != "seen"}, indent=1))


def _shown(value) -> str:
    if isinstance(value, list):
        return "  ".join(_shown(v) for v in value) if not isinstance(value[0], list) else "   ".join(_shown(v) for v in value)
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
