"""`hires train`."""

from dataclasses import dataclass
from pathlib import Path

from hires.training.settings import RunConfig as Config
from hires.verbs import Result


@dataclass(frozen=True)
class Trained(Result):
    """A run, and the images that it has seen; one that is not finished was saved on request, and the same call continues."""

    run: Path
    images: int
    finished: bool

    @property
    def status(self) -> int:
        """0, or 85 for "saved, run me again"."""
        from hires.training.trainer import DONE, SAVED

        return DONE if self.finished else SAVED

    @property
    def metrics(self) -> list[dict]:
        """The records of metrics.jsonl: of each progress line, and of events."""
        from hires.training.monitor import read_records

        return [record for _, record in read_records(self.run / "metrics.jsonl") if record]

    @property
    def pictures(self) -> list[Path]:
        """The grids in samples/, by name: KIND-IMAGES-SIZE.png."""
        return sorted((self.run / "samples").glob("*.png"))


def run(config: Config, owns_process: bool = False) -> Trained:
    """Train or resume; a signal, or a notebook's interrupt, saves first. `owns_process`: this process may be ended where it hangs."""
    from hires.evaluation.measuring import measures
    from hires.ground import distributed
    from hires.training import game
    from hires.training.trainer import DONE, Trainer

    with distributed.joined(config.train.threads) as world:
        trainer = Trainer(game.settle_precision(config, world), world, measures, owns_process)
        code = trainer.train()
        return Trained(trainer.run, trainer.images, finished=code == DONE)
