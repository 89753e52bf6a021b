"""A checkpoint of any world size and ZeRO stage exports the same bytes.

Run under torchrun it is also the program that takes a checkpoint into players of this world and each stage, and saves it again as it is:

    torchrun --nproc_per_node W test_export_sharded.py CHECKPOINT OUT STAGE,…        writes OUT/WxSTAGE/checkpoints/images-…
"""

from pathlib import Path
import sys

from hires import config as configuration
from hires.bundle import from_run
from hires.checkpoints import reading, writing
from hires.ground import distributed
from hires.training.game import Game
from hires.training.schedule import Schedule

STAGES = {1: (0, 1), 2: (1, 2, 3)}  # processes -> stages


def reshard(world, checkpoint: Path, out: Path, stages: tuple[int, ...]) -> None:
    """A collective: no step between reading and saving."""
    for stage in stages:
        read = reading.Checkpoint(checkpoint)
        config = from_run.load(str(checkpoint.parents[1]), str(read.images)).config
        config.zero.stage = stage
        game = Game(config, world, Schedule(config.schedule).at(read.images - 1).shape, read)
        info = {key: read.manifest[key] for key in ("resolution", "fading", "alpha", "data", "config")}
        writing.save(out / f"{world.size}x{stage}" / "checkpoints", game.players, read.images, {**info, "zero_stage": stage})
        game.destroy()


if __name__ == "__main__":
    joined = distributed.start(threads=1)
    reshard(joined, Path(sys.argv[1]), Path(sys.argv[2]), tuple(map(int, sys.argv[3].split(","))))
    distributed.stop()
else:
    import pytest

    from hires.cli import main
    from hires.training.trainer import Trainer

    @pytest.mark.slow
    def test_any_world_and_stage_exports_the_same_bytes(world, tiny, ranks, tmp_path):
        # stage 3 refuses the gradient penalty
        settings = configuration.load("train", [*tiny, f"run={tmp_path / 'run'}", "objective.r1=0"])
        assert Trainer(settings, world).train() == 0
        checkpoint = reading.complete(tmp_path / "run" / "checkpoints")[-1]
        reshard(world, checkpoint, tmp_path, STAGES[1])
        ranks(2, Path(__file__), checkpoint, tmp_path, ",".join(map(str, STAGES[2])))
        bundles = {}
        for run in ("run", *(f"{size}x{stage}" for size, stages in STAGES.items() for stage in stages)):
            assert main(["export", f"run={tmp_path / run}", f"out={tmp_path / 'bundles' / run}"]) == 0
            files = sorted((tmp_path / "bundles" / run).glob("*.safetensors"))
            bundles[run] = {path.name: path.read_bytes() for path in files}
        assert len(bundles["run"]) == 4  # three networks, and the moments of codes
        for run, files in bundles.items():
            assert files == bundles["run"], run
        shards = {run: len(list((tmp_path / run / "checkpoints" / checkpoint.name).glob("*.safetensors"))) for run in bundles}
        assert shards == {"run": 1, "1x0": 1, "1x1": 1, "2x1": 2, "2x2": 2, "2x3": 2}  # they were sharded
