"""What a run says and writes down before its first step."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
import json
from pathlib import Path
import platform
import subprocess

from omegaconf import OmegaConf
from rich.table import Table
import torch

from hires.checkpoints.reading import Checkpoint
from hires.ground import machine
from hires.ground.distributed import World
from hires.training.feed import Feed
from hires.training.player import Player
from hires.training.schedule import parse_images
from hires.training.settings import RunConfig


def remarks(config: RunConfig, world: World, feed: Feed, checkpoint: Checkpoint | None) -> Iterator[str]:
    """What the run resumes from, and what the user may not have meant, one line each."""
    if world.first and config.train.precision == "bf16" and not machine.has_fast_bf16(world.device):
        factor = machine.bf16_slowdown(world.device)
        yield f"train.precision=bf16: this machine computes it {factor:.1f} times as slowly as fp32 (measured just now)"
    if config.train.max_images and parse_images(config.train.max_images) > feed.schedule.total:
        yield f"train.max_images={config.train.max_images}: the schedule ends before, at {feed.schedule.total} images"
    if not checkpoint:
        return
    ours, place = checkpoint.path.parent.parent == Path(config.run), config.train.start_from
    yield f"{'resuming' if ours else 'starting'} from {checkpoint.path}"
    if ours and checkpoint.images >= feed.end:
        yield f"{config.run} already has {checkpoint.images} of {feed.end} images"
    if ours and checkpoint.manifest.get("data", feed.shards.identity) != feed.shards.identity:
        yield f"{config.data.root}: not the shards that this run has seen so far; it continues with these"
    if ours and place:
        yield f"train.start_from={place} is ignored: this run has checkpoints of its own"


def write(config: RunConfig, world: World) -> None:
    """config.yaml and environment.json into the run's folder, by rank 0."""
    if world.first:
        run = Path(config.run)
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), encoding="utf-8")
        (run / "environment.json").write_text(json.dumps(_environment(world), indent=1), encoding="utf-8")


def overview(config: RunConfig, world: World, feed: Feed, players: Mapping[str, Player]) -> Table:
    """What will run, on what, and how it is sharded."""
    processes = f"{world.size} processes, ZeRO {config.zero.stage}" if world.size > 1 else "1 process"  # that has nothing to shard
    table = Table(title=f"{config.run}: {processes}, {config.train.precision}")
    for column in ("level", "images", "fade", "batch", "lr", *config.objective.weights_at(4)):
        table.add_column(column, justify="right")
    for level in feed.schedule.levels:
        r, row = level.resolution, level.config
        weights = (f"{weight:g}" for weight in config.objective.weights_at(r).values())
        table.add_row(f"{r}x{r}", f"{level.start:,}–{level.end:,}", f"{level.fade:,}", str(row.batch), f"{row.lr:g}", *weights)
    parts = []
    for name, p in players.items():
        size = sum(shape.numel() for shape in p.shapes.values())
        parts.append(f"{name}: {size / 1e6:.2f} M parameters, {p.optimizer_bytes() / 1e6:.1f} MB of moments a rank")
    counts = ", ".join(f"{feed.shards.count(s):,} {s}" for s in ("train", "holdout"))
    table.caption = "\n".join([*parts, f"{config.data.root}: {counts}, {len(feed.shards.shard_sizes('train'))} shards a level"])
    return table


def _environment(world: World) -> dict:
    """Versions, machine and commit."""
    try:
        ask = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        commit = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # images without git
        commit = ""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepspeed": version("deepspeed"),
        "commit": commit or "unknown",
        "host": platform.node(),
        "world_size": world.size,
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else platform.processor() or platform.machine(),
    }
