"""`hires train`."""

from hires.config import TrainConfig


def run(config: TrainConfig) -> int:
    """Train or resume; returns 0 when the schedule is finished, 85 when it was saved on request."""
    from hires.ground import distributed
    from hires.training import game
    from hires.training.trainer import Trainer

    world = distributed.start(config.train.threads)
    try:
        return Trainer(game.settle_precision(config, world), world).train()
    finally:
        distributed.stop()
