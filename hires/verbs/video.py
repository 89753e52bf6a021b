"""`hires video`."""

from hires.config import VideoConfig
from hires.errors import HiresError
from hires.sampling.seeds import open_bundle, parse_seeds
from hires.sampling.video import interpolation_clip


def run(config: VideoConfig) -> int:
    """Write a clip that travels between the latents of the given seeds."""
    seeds = parse_seeds(config.seeds)
    if config.path not in ("slerp", "linear"):
        raise HiresError(f"path={config.path}: wanted slerp or linear")
    if len(seeds) < 2:
        raise HiresError(f"seeds={config.seeds}: wanted at least two to travel between")
    if not config.seconds_per_key > 0 or config.fps < 1:
        raise HiresError(f"seconds_per_key={config.seconds_per_key} fps={config.fps}: wanted both above 0")
    bundle = open_bundle(config.sampler)
    frames = interpolation_clip(
        bundle, bundle.latents(seeds), config.out, config.seconds_per_key, config.fps, kind=config.path, loop=config.loop
    )
    print(f"{config.out}: {frames} frames, {frames / config.fps:.1f} s")
    return 0
