"""`hires video growth`: a run's pictures as they grew."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from hires.errors import HiresError
from hires.ground.ranges import setting
from hires.ground.showing import progress
from hires.media.containers import check_rate, suffix_of, write_video
from hires.sampling.clips import Look, check_size
from hires.sampling.growth_clip import Growth, growth_frames, lost_levels, stages
from hires.sampling.keyframes import parse_grid
from hires.sampling.seeds import parse_device, parse_seeds
from hires.verbs.video import Clip


@dataclass
class Config:
    """hires video growth: the same latents through a run's checkpoints, from 4x4 up (docs/reference/video.md).
      hires video growth run=runs/celebahq out=growth.mp4
      hires video growth run=runs/celebahq out=growth.gif seeds=0-3 grid=4x1 size=128 fps=10
    """

    run: str = MISSING
    out: str = MISSING  # as for `hires video`, but no strip
    seeds: str = "0-7"  # one for each cell
    grid: str = "4x2"  # columns x rows
    size: int = 0  # side of a cell in pixels, a whole multiple of the last resolution; 0 = the first from 256 up
    seconds_per_checkpoint: float = setting(1.5, above=0, at_most=3600)  # half of it stands still, half fades into the next
    fps: int = 30
    captions: bool = True  # resolution, images seen, and α in a fade-in
    device: str = "auto"


def run(config: Config) -> Clip:
    """Write a clip of the same latents through a run's checkpoints, from 4x4 up; tells levels of which none is left."""
    if suffix_of(config.out) == ".png":
        raise HiresError(f"out={config.out}: wanted a clip (.mp4, .webm, .gif, .mov) or a folder for frames such as frames/")
    check_rate(config.out, config.fps)
    columns, rows = parse_grid(config.grid)
    seeds = parse_seeds(config.seeds)
    if len(seeds) != columns * rows:
        raise HiresError(f"seeds={config.seeds} grid={config.grid}: {len(seeds)} seeds for {columns * rows} cells, wanted as many")
    device = parse_device(config.device)
    if not Path(config.run).is_dir():
        raise HiresError(f"run={config.run}: no such folder; wanted what hires train run=… wrote")
    found = stages(config.run)
    each = max(1, round(config.seconds_per_checkpoint * config.fps))
    size = check_size(config.size, max(stage.resolution for stage in found))
    look = Look(columns, rows, size, config.captions)
    look.check()
    count, frames = growth_frames(Growth(config.run, found, seeds, look, each, device))
    if lost := lost_levels(found):
        levels = ", ".join(f"{r}x{r}" for r in lost)
        print(f"no checkpoint left of {levels}: the clip continues from the level below (train.keep_levels keeps each level's last)")
    with closing(frames), progress(config.out, "frames") as show:
        write_video(config.out, frames, config.fps, loop=True, show=lambda done: show(done, count))
    print(f"{config.out}: {len(found)} checkpoints, {count} frames, {count / config.fps:.1f} s")
    return Clip(Path(config.out), count)
