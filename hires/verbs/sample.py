"""`hires sample`."""

from hires.config import SampleConfig
from hires.sampling.images import save_grid
from hires.sampling.seeds import open_bundle, parse_seeds


def run(config: SampleConfig) -> int:
    """Write a grid of a bundle's pictures; seed n is the same picture in any grid."""
    seeds = parse_seeds(config.seeds)
    save_grid(open_bundle(config.sampler).sample(seeds), config.out)
    print(f"{config.out}: {len(seeds)} pictures")
    return 0
