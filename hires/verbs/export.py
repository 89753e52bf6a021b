"""`hires export`."""

from pathlib import Path

from hires.config import ExportConfig
from hires.errors import HiresError
from hires.sampling import from_run
from hires.sampling.bundle import write_bundle


def run(config: ExportConfig) -> int:
    """Write a bundle of a run's moving averages that loads without this project; refuses a checkpoint in the middle of a fade-in."""
    loaded = from_run.load(config.run, config.at)
    if loaded.fading and loaded.alpha < 1:
        raise HiresError(
            f"{loaded.checkpoint}: {loaded.resolution}x{loaded.resolution} is fading in there (α = {loaded.alpha:.2f}); "
            "choose a stable moment with at=…, or train on"
        )
    out = Path(config.out) if config.out else Path(config.run) / f"bundle-{loaded.images:012d}"
    info = {"data": loaded.config.data.root, "images_seen": loaded.images, "run": Path(config.run).name, "seed": loaded.config.train.seed}
    path = write_bundle(out, loaded.config.network, loaded.resolution, loaded.networks, info)
    print(f"{path}: generator, inference model and energy at {loaded.resolution}x{loaded.resolution}, {loaded.images:,} images seen")
    return 0
