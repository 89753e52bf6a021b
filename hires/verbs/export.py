"""`hires export`."""

from pathlib import Path

from hires.bundle import from_run
from hires.bundle.card import facts, listed, names
from hires.bundle.chains import chains_of
from hires.bundle.formats import parse_formats
from hires.bundle.writing import KNOWN, require_new, write_bundle
from hires.config import ExportConfig
from hires.errors import HiresError


def run(config: ExportConfig) -> int:
    """Write a bundle of a run's moving averages that loads without this project; refuses a checkpoint in the middle of a fade-in."""
    formats = parse_formats(config.formats)
    if config.out:
        require_new(Path(config.out))
    loaded = from_run.load(config.run, config.at, config.resolution)
    size = f"{loaded.resolution}x{loaded.resolution}"
    if loaded.fading:
        raise HiresError(
            f"{loaded.checkpoint}: {size} is fading in there (α = {loaded.alpha:.2f}), a bundle wants a stable level; choose one with "
            f"resolution=… or at=…: {from_run.told(from_run.list_stable(config.run))}"
        )
    out = Path(config.out) if config.out else Path(config.run) / f"bundle-{loaded.images:012d}"
    chains = chains_of(loaded.config.objective)
    path = write_bundle(out, loaded.config.network, loaded.resolution, loaded.networks, facts(loaded, config.run), formats, chains)
    also = f", also as {' and '.join(formats)}" if formats else ""
    held = listed(names({f"has_{name}": name in loaded.networks for name in KNOWN}))
    print(f"{path}: {held} at {size}, {loaded.images:,} images seen{also}")
    return 0
