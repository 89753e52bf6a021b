"""`hires video`: clips and strips that travel between keyframes."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING
from torch import Tensor

from hires.errors import HiresError
from hires.ground.ranges import setting
from hires.ground.showing import progress
from hires.media.containers import check_rate, suffix_of, write_video
from hires.sampling.clips import Look, Travel, check_size, clip_frames, generator_of, interpolation_strip
from hires.sampling.drawing import check
from hires.sampling.keyframes import Keyframes, cell_keys, keyframes, one_source, parse_grid
from hires.sampling.paths import check_path
from hires.sampling.seeds import open_bundle, parse_seeds
from hires.verbs import Result


@dataclass
class Config:
    """hires video: travel between keyframes, as a clip, as numbered frames or as a strip (docs/reference/video.md).
      hires video sampler=bundle out=walk.mp4 seeds=1,5,9                          seeds
      hires video sampler=bundle out=mine.mp4 from=a.jpg,b.jpg,c.jpg beside=true   pictures of your own, the originals beside
      hires video sampler=bundle out=mine.webm codes=codes.safetensors             what hires reconstruct codes=… saved
      hires video sampler=bundle out=wall.mp4 grid=4x2 path=walk seeds=0-47        eight cells, each with six keyframes of its own
      hires video sampler=bundle out=strip.png seeds=0-15 path=linear              a row for each two seeds
      hires video growth run=runs/celebahq out=growth.mp4                          a run's checkpoints: hires video growth --help
    """

    sampler: str = MISSING
    out: str = MISSING  # .mp4, .webm, .mov (ProRes), .gif; a name with a slash behind it: a new folder of PNG frames; .png: a strip
    seeds: str = ""  # keyframes, such as 1,5,9; or one of these two; none of them: seeds 0, 1, …, five for each cell
    codes: str = ""  # a .safetensors file of hires reconstruct codes=…
    from_: str = ""  # written from=…: pictures as for `hires reconstruct`
    limit: int = setting(0, at_least=0)  # most keyframes; 0 = all
    prior: str = ""  # of the seeds' latents: standard | aggregate, as for hires sample
    path: str = "slerp"  # slerp | linear | spline | walk (near the keyframes, through none) | circle (two keyframes)
    easing: str = "none"  # none | smooth: slower at each keyframe
    loop: bool = True  # from the last keyframe back to the first: the first frame is the last one + one step
    seconds_per_key: float = setting(1.5, above=0, at_most=3600)  # from one keyframe to the next; a circle has four such quarters
    fps: int = 30
    grid: str = "1x1"  # columns x rows of cells, each with as many keyframes of its own
    size: int = 0  # side of a cell in pixels, a whole multiple of the sampler's; 0 = the first from 256 up
    captions: bool = False  # the keyframes' names under each cell
    beside: bool = False  # with from=…: the originals to the left of the pictures
    steps: int = setting(10, at_least=2, at_most=1000)  # pictures in a row of a strip, ends included
    device: str = "auto"  # auto | cpu | cuda | cuda:N


@dataclass(frozen=True)
class Clip(Result):
    """A clip, a folder of frames or a strip, and the number of its frames, or of the strip's pictures."""

    out: Path
    frames: int


def run(config: Config) -> Clip:
    """Write a clip, a folder of frames or a strip that travels between latents of seeds, saved codes, or pictures of one's own."""
    suffix = suffix_of(config.out)
    columns, rows = parse_grid(config.grid)
    source = one_source(config.seeds, config.codes, config.from_)
    check_path(config.path, config.easing, 2)
    check_rate(config.out, config.fps)
    if source == "seeds" and config.seeds:
        cell_keys(len(parse_seeds(config.seeds)[: config.limit or None]), columns * rows, config.grid)
    if config.prior and source != "seeds":
        raise HiresError(f"prior={config.prior} with {source}=…: a code is a latent as it is; wanted seeds, or no prior")
    prior = config.prior if source == "seeds" else "standard"
    if config.beside and (source != "from" or config.path in ("walk", "circle")):
        raise HiresError("beside=true: wanted from=… and a path that goes through its pictures: slerp, linear or spline")
    if suffix == ".png":
        _check_strip(config)
    bundle = open_bundle(config.sampler, config.device)
    check(bundle, prior=prior)
    generate = generator_of(bundle, prior)
    size = check_size(config.size, bundle.resolution)
    keys = keyframes(bundle, config.seeds, config.codes, config.from_, config.limit, columns * rows)
    if suffix == ".png":
        return _strip(config, generate, keys)
    check_path(config.path, config.easing, cell_keys(len(keys.latents), columns * rows, config.grid))
    travel = Travel(max(1, round(config.seconds_per_key * config.fps)), config.path, config.loop, config.easing)
    look = Look(columns, rows, size, config.captions, config.beside)
    look.check()
    count, frames = clip_frames(generate, keys, travel, look)
    with closing(frames), progress(config.out, "frames") as show:
        write_video(config.out, frames, config.fps, config.loop, lambda done: show(done, count))
    print(f"{config.out}: {count} frames, {count / config.fps:.1f} s")
    return Clip(Path(config.out), count)


def _check_strip(config: Config) -> None:
    if config.grid != "1x1" or config.captions:
        raise HiresError(f"out={config.out}: a strip has no grid and no captions; wanted a clip for these, or neither")
    if config.path not in ("slerp", "linear") or config.easing != "none":
        raise HiresError(f"out={config.out}: a strip goes from key to key in equal steps; wanted path=slerp or linear, and easing=none")


def _strip(config: Config, generate: Callable[[Tensor], Tensor], keys: Keyframes) -> Clip:
    rows = interpolation_strip(generate, keys, config.out, config.steps, config.path, config.size, config.beside)
    print(f"{config.out}: {rows} rows of {config.steps} pictures")
    return Clip(Path(config.out), rows * config.steps)
