"""Run by test_vgan under torchrun: three rounds of each system on this rank's rows of fixed batches; rank 0 writes all weights.

torchrun --nproc_per_node W vgan_ranks.py OUT          OUT/SYSTEM-W.safetensors
"""

from pathlib import Path
import sys

from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "objectives"))
import conftest
import test_vgan

from hires.ground import distributed


def main(out: Path) -> None:
    world = distributed.start(threads=1)
    rows = world.rows(test_vgan.BATCH)

    def mine(draw):
        return lambda stream, size: draw(stream, size)[rows]

    for name in test_vgan.OPTIONS:
        config = test_vgan.settings(name, 2)
        rounds = [(x[rows], mine(draw)) for x, draw in test_vgan.data(conftest)]
        weights = test_vgan.play(config, test_vgan.start(conftest, config), rounds, world.device)[1]
        if world.first:
            save_file({key: tensor.cpu().contiguous() for key, tensor in weights.items()}, out / f"{name}-{world.size}.safetensors")
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
