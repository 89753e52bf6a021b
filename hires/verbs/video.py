"""`hires video`: clips and strips that travel between keyframes."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from hires.config import VideoConfig
from hires.errors import HiresError
from hires.ground.showing import progress
from hires.media.containers import check_rate, suffix_of, write_video
from hires.sampling.clips import Look, Travel, check_size, clip_frames, generator_of, interpolation_strip
from hires.sampling.keyframes import Keyframes, cell_keys, keyframes, one_source, parse_grid
from hires.sampling.paths import check_path
from hires.sampling.seeds import open_bundle, parse_seeds
from hires.verbs import Result


@dataclass(frozen=True)
class Clip(Result):
    """A clip, a folder of frames or a strip, and the number of its frames, or of the strip's pictures."""

    out: Path
    frames: int


def run(config: VideoConfig) -> Clip:
    """Write a clip, a folder of frames or a strip that travels between latents of seeds, saved codes, or pictures of one's own."""
    suffix = suffix_of(config.out)
    columns, rows = parse_grid(config.grid)
    source = one_source(config.seeds, config.codes, config.from_)
    check_path(config.path, config.easing, 2)
    check_rate(config.out, config.fps)
    if not 0 < config.seconds_per_key <= 3600:
        raise HiresError(f"seconds_per_key={config.seconds_per_key}: wanted more than 0, at most 3600")
    if config.limit < 0:
        raise HiresError(f"limit={config.limit}: wanted at most so many keyframes, 0 for all")
    if source == "seeds" and config.seeds:
        cell_keys(len(parse_seeds(config.seeds)[: config.limit or None]), columns * rows, config.grid)
    if config.beside and (source != "from" or config.path in ("walk", "circle")):
        raise HiresError("beside=true: wanted from=… and a path that goes through its pictures: slerp, linear or spline")
    if suffix == ".png":
        _check_strip(config)
    bundle = open_bundle(config.sampler, config.device)
    size = check_size(config.size, bundle.resolution)
    keys = keyframes(bundle, config.seeds, config.codes, config.from_, config.limit, columns * rows)
    if suffix == ".png":
        return _strip(config, bundle, keys)
    check_path(config.path, config.easing, cell_keys(len(keys.latents), columns * rows, config.grid))
    travel = Travel(max(1, round(config.seconds_per_key * config.fps)), config.path, config.loop, config.easing)
    look = Look(columns, rows, size, config.captions, config.beside)
    look.check()
    count, frames = clip_frames(generator_of(bundle), keys, travel, look)
    with closing(frames), progress(config.out, "frames") as show:
        write_video(config.out, frames, config.fps, config.loop, lambda done: show(done, count))
    print(f"{config.out}: {count} frames, {count / config.fps:.1f} s")
    return Clip(Path(config.out), count)


def _check_strip(config: VideoConfig) -> None:
    if config.grid != "1x1" or config.captions:
        raise HiresError(f"out={config.out}: a strip has no grid and no captions; wanted a clip for these, or neither")
    if config.path not in ("slerp", "linear") or config.easing != "none":
        raise HiresError(f"out={config.out}: a strip goes from key to key in equal steps; wanted path=slerp or linear, and easing=none")
    if not 2 <= config.steps <= 1000:
        raise HiresError(f"steps={config.steps}: wanted 2 to 1000 pictures in a row, ends included")


def _strip(config: VideoConfig, bundle, keys: Keyframes) -> Clip:
    rows = interpolation_strip(bundle, keys, config.out, config.steps, config.path, config.size, config.beside)
    print(f"{config.out}: {rows} rows of {config.steps} pictures")
    return Clip(Path(config.out), rows * config.steps)
