"""RUN/samples: what the system shows of fixed latents and fixed held-out pictures, by the moving averages, while it learns."""

from pathlib import Path

import torch

from hires.ground import noise
from hires.ground.images import save_grid
from hires.networks.growing import fade_images
from hires.training.feed import Feed
from hires.training.game import Game
from hires.training.monitor import Monitor
from hires.training.schedule import Phase


@torch.no_grad()
def show(game: Game, feed: Feed, phase: Phase, images: int, monitor: Monitor) -> None:
    """Write the grids after `images`, whose last step was `phase`, and that of the held-out pictures; a collective, rank 0 draws."""
    networks = game.averaged()
    if not game.world.first:
        return
    config, size, device = game.config, game.shape.resolution, game.world.device
    alpha, count = phase.alpha if game.shape.fading else 1.0, config.monitor.samples
    z = noise.normal(config.train.seed, "grid", 0, count, config.network.latent, slice(None)).to(device)
    x = fade_images(feed.held_out(size, count // 2).to(device).float() / 127.5 - 1, alpha)
    folder = Path(config.run) / "samples"
    folder.mkdir(exist_ok=True)
    save_grid(x, folder / f"reals-{size}x{size}.png")
    for name, (pictures, columns) in game.objective.pictures(networks, x, z, alpha).items():
        path = folder / f"{name}-{images:012d}-{size}x{size}.png"
        save_grid(pictures, path, columns)
        monitor.grid(name, path, images)
