"""RUN/samples: what the system shows of fixed latents and fixed held-out pictures, by the moving averages, while it learns."""

from pathlib import Path

import torch
from torch import Tensor, nn

from hires.ground import noise
from hires.ground.images import save_grid
from hires.networks.growing import fade_images
from hires.objectives.base import Pictures
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
    size, count = game.shape.resolution, game.config.monitor.samples
    x, shown = pictures(game, networks, phase, feed.held_out(size, count // 2), count)
    folder = Path(game.config.run) / "samples"
    folder.mkdir(exist_ok=True)
    save_grid(x, folder / f"reals-{size}x{size}.png")
    for name, (cells, columns) in shown.items():
        path = folder / f"{name}-{images:012d}-{size}x{size}.png"
        save_grid(cells, path, columns)
        monitor.grid(name, path, images)


@torch.no_grad()
def pictures(game: Game, networks: dict[str, nn.Module], phase: Phase, held_out: Tensor, count: int) -> tuple[Tensor, Pictures]:
    """uint8 pictures as the networks see them in `phase`, and what the system shows of these and of `count` fixed latents."""
    config, device = game.config, game.world.device
    alpha = phase.alpha if game.shape.fading else 1.0
    z = noise.normal(config.train.seed, "grid", 0, count, config.network.latent, slice(None)).to(device)
    x = fade_images(held_out.to(device).float() / 127.5 - 1, alpha)
    return x, game.objective.pictures(networks, x, z, alpha)
